"""Every driver on the drivers' tour (tests/lib/tour.py), plain and with TLS, under a strip rule.

The same programs run against the server itself with PGSLUICE_DIRECT=1: what one of them finds there
and not through the proxy, or the other way round, is a bug of the proxy.
"""

import pytest

from conftest import AUTH_PASSWORD
from lib import common, schema, tour
from lib.pgserver import Server
from lib.pki import configure_server
from lib.proxy import Direct, Proxy, strip_rule

ROLE = "tourist"

# How the two legs are encrypted: the proxy's own keys, and the keywords of its `server`.
LEGS = {
    "plain": ({}, "sslmode=disable"),
    "tls": ({"client_tls": "require"}, "sslmode=disable"),
    # no login passes through two TLS connections: the proxy answers it
    "tls-both": ({"client_tls": "require", "auth_query": schema.AUTH_QUERY}, "sslmode=require"),
}


# The others must be seen to speak both protocols.
SIMPLE_ONLY = ["psql", "psycopg2", "sqlalchemy-psycopg2"]
EXTENDED_ONLY = ["sqlalchemy-asyncpg"]


class Stage:
    """A server with the guarded table in database app, and proxies with a rule in front of it.

    The column is generated where the server has that: it refuses each INSERT of which the proxy has not
    removed the key. Without the proxy nobody does, so there the trigger computes it.
    """

    def __init__(self, pki, major=None):
        self.pki = pki
        self.server = Server(major, auth=[f"host all {ROLE} 127.0.0.1/32 scram-sha-256",
                                          "host all all 127.0.0.1/32 trust"])
        configure_server(self.server, pki)
        self.server.start()
        schema.create_database(self.server)
        self.server.psql(schema.SECRET_OF, "app")
        quoted = AUTH_PASSWORD.replace("'", "''")
        self.server.psql("SET password_encryption = 'scram-sha-256';"
                         f"CREATE ROLE {ROLE} LOGIN PASSWORD '{quoted}' IN ROLE app", "postgres")
        generated = self.server.major >= 12 and not common.is_direct()
        schema.create_chunks(self.server, "generated" if generated else "trigger")
        self.endpoints = {}
        self.walks = 0

    def endpoint(self, legs):
        """The proxy for these legs, started when it is first asked for."""
        if legs not in self.endpoints:
            keys, keywords = LEGS[legs]
            if keys:
                keys = {**keys, "client_tls_cert": self.pki / "one.crt",
                        "client_tls_key": self.pki / "one.key"}
            self.endpoints[legs] = Direct(self.server) if common.is_direct() else Proxy(
                self.server, rules=[strip_rule("strip")],
                server=f"host={self.server.host} port={self.server.port} {keywords}", **keys).start()
        return self.endpoints[legs]

    def stop(self):
        for endpoint in self.endpoints.values():
            assert endpoint.stop() in (0, None)
        self.server.stop()

    def walk(self, driver, legs, **environment):
        """Sends a driver on the tour, and looks at what it has left behind; returns its report."""
        self.walks += 1
        application = f"tour {self.walks}"  # finds this walk's records in the audit log
        schema.clear_chunks(self.server)
        endpoint = self.endpoint(legs)
        report = tour.walk(driver, {
            "host": endpoint.host, "port": endpoint.port, "database": "app", "user": ROLE,
            "password": AUTH_PASSWORD, "application": application, "tls": legs != "plain",
            "ca": str(self.pki / "ca.crt")}, **environment)
        assert self.server.psql("SELECT count(*) FROM chunks") == str(report["rows"])
        assert schema.wrong_keys(self.server) == 0
        endpoint.assert_sane()
        if not common.is_direct():
            check_audit(endpoint, driver, application, report["supplied"])
        return report


def check_audit(endpoint, driver, application, supplied):
    """As many keys on record as were supplied, all stripped, and in both protocols."""
    def recorded():
        return endpoint.audit_lines(application_name=application)

    common.wait_until(lambda: sum(record["rows"] for record in recorded()) >= supplied, 5,
                      f"{supplied} supplied keys on record")
    assert sum(record["rows"] for record in recorded()) == supplied
    assert {(record["user"], record["verdict"]) for record in recorded()} == {(ROLE, "stripped")}
    protocols = {record["protocol"] for record in recorded()}
    assert ("simple" in protocols) == (driver not in EXTENDED_ONLY)
    assert ("extended" in protocols) == (driver not in SIMPLE_ONLY)


@pytest.fixture(scope="module")
def stage(pki):
    instance = Stage(pki)
    yield instance
    instance.stop()


@pytest.fixture(scope="module")
def newest_stage(request, pki):
    """The same with a server of the newest major, which speaks protocol 3.2."""
    if common.pg_major() == tour.NEWEST:
        yield request.getfixturevalue("stage")
        return
    instance = Stage(pki, tour.NEWEST)
    yield instance
    instance.stop()


@pytest.mark.parametrize("legs", LEGS)
@pytest.mark.parametrize("driver", tour.DRIVERS)
def test_tour(stage, driver, legs):
    assert stage.walk(driver, legs)["supplied"] > 0


@pytest.mark.parametrize("legs", LEGS)
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg3"])  # Debian's psql needs a newer one
def test_tour_with_the_oldest_libpq(stage, driver, legs):
    report = stage.walk(driver, legs, **tour.libpq_of(tour.OLDEST))
    assert report["libpq"] // 10000 == tour.OLDEST


def walk_with_the_newest_libpq(stage, driver, legs, negotiation):
    """Asks for the latest protocol, and with TLS for a handshake without an SSLRequest before."""
    if negotiation == "direct" and common.is_direct() and stage.server.major < 17:
        pytest.skip("servers before 17 want an SSLRequest")
    report = stage.walk(driver, legs, **tour.libpq_of(tour.NEWEST), PGMAXPROTOCOLVERSION="latest",
                        PGSSLNEGOTIATION=negotiation)
    if driver == "psycopg3":
        assert report["libpq"] // 10000 == tour.NEWEST
        assert report["protocol"] == (30002 if stage.server.major >= 18 else 30000)


@pytest.mark.parametrize("legs, negotiation", [("plain", "postgres"), ("tls", "direct")])
@pytest.mark.parametrize("driver", ["psql", "psycopg3"])
def test_tour_with_the_newest_libpq(stage, driver, legs, negotiation):
    walk_with_the_newest_libpq(stage, driver, legs, negotiation)


@pytest.mark.parametrize("legs, negotiation", [
    ("plain", "postgres"), ("tls", "postgres"), ("tls", "direct")])
@pytest.mark.parametrize("driver", ["psql", "psycopg2", "psycopg3"])
def test_tour_with_the_newest_libpq_and_server(newest_stage, driver, legs, negotiation):
    walk_with_the_newest_libpq(newest_stage, driver, legs, negotiation)

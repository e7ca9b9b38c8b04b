"""Certificates for the tests: a CA, and what it has signed for the proxy, its clients and servers."""

import os
import shutil
import subprocess

NAMES = ("one", "two", "postgres", "stranger")
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def create(folder):
    """Fills the folder: ca.crt, and NAME.crt and NAME.key of each name, good for localhost."""
    _openssl("req", "-new", "-x509", "-nodes", *NEW_KEY, "-days", "3", "-subj", "/CN=test CA",
             "-keyout", "ca.key", "-out", "ca.crt", cwd=folder)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in NAMES:
        _openssl("req", "-new", "-nodes", *NEW_KEY, "-subj", f"/CN={name}",
                 "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        _openssl("x509", "-req", "-days", "3", "-in", f"{name}.csr", "-CA", "ca.crt",
                 "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-out", f"{name}.crt",
                 cwd=folder)
    return folder


def expire(folder, name, where):
    """Another certificate for a name's key, in `where`, that was good until the end of 2020."""
    shutil.copy(folder / f"{name}.key", where)
    (where / "index").touch()
    (where / "ca.cnf").write_text(
        f"[ca]\ndatabase={where}/index\nnew_certs_dir={where}\nrand_serial=yes\npolicy=any\n"
        "default_md=sha256\n[any]\ncommonName=supplied\n")
    _openssl("ca", "-batch", "-config", where / "ca.cnf", "-name", "ca", "-cert", "ca.crt", "-keyfile",
             "ca.key", "-extfile", "san", "-in", f"{name}.csr", "-out", where / f"{name}.crt",
             "-startdate", "20200101000000Z", "-enddate", "20201231000000Z", cwd=folder)


def place(folder, name, where, user=None):
    """Copies a name's certificate and key to where/server.crt and server.key, for this user alone."""
    for ending in ("crt", "key"):
        copy = where / f"server.{ending}"
        shutil.copy(folder / f"{name}.{ending}", copy)
        copy.chmod(0o600)
        if user:
            shutil.chown(copy, user)


def configure_server(server, folder):
    """Gives a PostgreSQL server TLS; in force after its next start."""
    place(folder, "one", server.data, server.user)
    server.configure(ssl="on")

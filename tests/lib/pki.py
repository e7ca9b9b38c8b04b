"""Certificates for the tests: a CA, and what it has signed for proxy, clients and servers."""

import os
import shutil
import subprocess

NAMES = ("one", "two", "postgres", "stranger", "revoked")
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments, cwd):
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def create(folder):
    """Fills the folder: ca.crt and ca.crl, and NAME.crt and NAME.key of each name, good for localhost."""
    _openssl("req", "-new", "-x509", "-nodes", *NEW_KEY, "-days", "3", "-subj", "/CN=test CA",
             "-keyout", "ca.key", "-out", "ca.crt", cwd=folder)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in NAMES:
        _openssl("req", "-new", "-nodes", *NEW_KEY, "-subj", f"/CN={name}",
                 "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        _openssl("x509", "-req", "-days", "3", "-in", f"{name}.csr", "-CA", "ca.crt",
                 "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-out", f"{name}.crt",
                 cwd=folder)
    _revoke(folder, "revoked")
    return folder


def _revoke(folder, name):
    (folder / "index").touch()
    (folder / "ca.conf").write_text("[ca]\ndefault_ca = it\n[it]\ndatabase = index\n"
                                    "default_md = sha256\ndefault_crl_days = 3\n")
    authority = ("ca", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key")
    _openssl(*authority, "-revoke", f"{name}.crt", cwd=folder)
    _openssl(*authority, "-gencrl", "-out", "ca.crl", cwd=folder)


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
    """Copies a name's certificate and key to where/server.crt and server.key, for `user` alone."""
    for ending in ("crt", "key"):
        copy = where / f"server.{ending}"
        shutil.copy(folder / f"{name}.{ending}", copy)
        copy.chmod(0o600)
        if user:
            shutil.chown(copy, user)


def configure_server(server, folder, name="one"):
    """Gives a PostgreSQL server TLS, and trust in the CA; in force after its next start."""
    place(folder, name, server.data, server.user)
    shutil.copy(folder / "ca.crt", server.data / "ca.crt")
    (server.data / "ca.crt").chmod(0o644)
    server.configure(ssl="on", ssl_ca_file="'ca.crt'")

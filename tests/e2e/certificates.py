"""Certificates for one test: an authority, the broker's and a client's, and an authority that signed neither."""

import subprocess
from pathlib import Path


def make_certificates(folder: Path, address: str = "127.0.0.1", more: str = "") -> Path:
    """ca, stranger, server and client in `folder`, each .crt and .key; good for `address`, and for `more`."""
    for name in ("ca", "stranger"):
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        subject = ("-subj", f"/CN={name}")
        _openssl(folder, "req", "-x509", *_new_key(name), "-days", "2", *subject, *usage, "-out", f"{name}.crt")
    names = ",".join(f"IP:{a}" for a in (address, more) if a)
    (folder / "extensions").write_text(f"authorityKeyIdentifier=keyid\nsubjectAltName={names}\n")
    for name in ("server", "client"):
        _openssl(folder, "req", *_new_key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "extensions", "-out", f"{name}.crt",
        )  # fmt: skip
    return folder


def _new_key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)

"""A certificate authority of the testbed, and the certificates it signs, made with the openssl command."""

from __future__ import annotations

from pathlib import Path

from testbed.processes import run

_DAYS = "30"
# Python 3.13 and newer refuse certificates without the key identifiers and the usages below.
_CONFIGURATION = """\
[req]
distinguished_name = subject
prompt = no
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
[other-host]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:other.example
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def make_certificates(folder: Path) -> None:
    """Make authority, server, other-host and client: each a NAME.pem and its NAME.key in `folder`.

    Raises:
        UnavailableError: openssl refuses.
    """
    configuration = folder / "openssl.cnf"
    configuration.write_text(_CONFIGURATION, encoding="ascii")
    for name in ("authority", "server", "other-host", "client"):
        signer: list[str | Path] = []
        if name != "authority":
            signer = ["-CA", folder / "authority.pem", "-CAkey", folder / "authority.key"]
        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        form = ["-sha256", "-days", _DAYS, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        files: list[str | Path] = ["-config", configuration, "-keyout", key, "-out", folder / f"{name}.pem"]
        run(["openssl", "req", "-x509", *form, "-subj", f"/CN=testbed {name}", "-extensions", name, *signer, *files])

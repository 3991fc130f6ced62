"""TLS of clients, alike on every Python; and what programs that check strictly refuse in a certificate.

1. Python 3.13 and newer refuse a certificate without every extension of RFC 5280 (`VERIFY_X509_STRICT`), also the
   authority that plain `openssl req -x509` makes. Older ones accept it, so an upgrade of the system would cut a device
   off. No context of ours checks that; signatures, dates, names and what an authority may do are always checked.
2. A certificate of the CA file is trusted without those above it (`VERIFY_X509_PARTIAL_CHAIN`), as 3.13 does.
3. A session is resumed also after a connection that the server ended without close_notify (`OP_IGNORE_UNEXPECTED_EOF`).
   With Python 3.13.5 and OpenSSL 3.5, every connection would otherwise begin with a full handshake. The length of an
   answer says whether it was cut.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MOST_SHOWN: Final = 5


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a context that verifies servers (OSError: the CA file cannot be used).

    Args:
        ca_file: certificates (PEM) to trust; None: the system's.
    """
    return alike(ssl.create_default_context(cafile=ca_file))


def alike(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return a client's context, set so that it does the same on every Python."""
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def not_strict(file: Path) -> list[str]:
    """Return a note on each certificate of a PEM file that programs with strict checks refuse (RFC 5280, 4.2.1).

    Raises:
        OSError: the file cannot be read.
    """
    # Only those who check a configuration need it.
    from cryptography.x509 import load_pem_x509_certificate

    notes = []
    for pem in _PEM.findall(file.read_bytes()):
        try:
            certificate = load_pem_x509_certificate(pem)
            name, lacks = certificate.subject.rfc4514_string(), _lacks(certificate)
        except ValueError:
            continue  # whatever uses it will say so
        if lacks:
            notes.append(
                f"{file}: the certificate {name!r} lacks {', '.join(lacks)}. It works here; programs that check "
                "strictly refuse it, as Python 3.13 and newer do by default"
            )
    return notes[:_MOST_SHOWN]


def _lacks(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    found = {each.oid: each for each in certificate.extensions}
    oids = x509.oid.ExtensionOID
    basic = found.get(oids.BASIC_CONSTRAINTS)
    constraints = basic.value if basic else None
    authority = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    lacks = []
    if authority and basic and not basic.critical:
        lacks.append("critical at its basicConstraints")
    if authority and oids.KEY_USAGE not in found:
        lacks.append("keyUsage")
    if authority and oids.SUBJECT_KEY_IDENTIFIER not in found:
        lacks.append("subjectKeyIdentifier")
    if certificate.issuer != certificate.subject and oids.AUTHORITY_KEY_IDENTIFIER not in found:
        lacks.append("authorityKeyIdentifier")
    if basic is None and oids.SUBJECT_ALTERNATIVE_NAME not in found:
        lacks.append("basicConstraints (CA:TRUE)")
    return lacks

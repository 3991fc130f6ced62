"""X.509-SVIDs made for a test: a trust domain with its authority, servers and clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def spiffe_id(client: str, wfm: str = "main", domain: str = "plant.example") -> str:
    return f"spiffe://{domain}/margo/wfm/{wfm}/client/{client}"


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write certificate and key as PEM; returns their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "plant authority", issuer: Issued | None = None, *, ca: bool = True) -> None:
        constraints = x509.BasicConstraints(ca=ca, path_length=(0 if issuer else 1) if ca else None)
        self.issued = _issue(name, issuer, [constraints], usage={"key_cert_sign": ca})

    def client(
        self,
        *uris: str,
        ca: bool = False,
        usage: dict[str, bool] | None = None,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> Issued:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=ca, path_length=None)]
        if names:
            extensions.append(x509.SubjectAlternativeName(names))
        return _issue("", self.issued, extensions, usage=usage or {}, begins=begins, ends=ends)

    def server(self, *hosts: str, ends: timedelta = DAY) -> Issued:
        """Issue a server's certificate for the loopback, by address, and by these names."""
        names = x509.SubjectAlternativeName(
            [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                *map(x509.DNSName, hosts),
                x509.UniformResourceIdentifier("spiffe://plant.example/margo/wfm/main"),
            ]
        )
        extensions = [names, x509.BasicConstraints(ca=False, path_length=None)]
        return _issue("server", self.issued, extensions, usage={}, ends=ends)


def _issue(
    name: str,
    issuer: Issued | None,
    extensions: list[x509.ExtensionType],
    *,
    usage: dict[str, bool],
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    now = datetime.now(UTC).replace(microsecond=0)
    flags = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    ) | {"digital_signature": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.KeyUsage(**{**flags, **usage}), critical=True)
    )
    # All that strict checks want (RFC 5280, 4.2.1); names are critical where there is no subject.
    critical = (x509.BasicConstraints, *(() if name else (x509.SubjectAlternativeName,)))
    signer = (issuer.key if issuer else key).public_key()
    extensions = [
        *extensions,
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer),
    ]
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, critical))
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)

"""Which certificates are accepted, and which device each stands for.

    # device   sha256 of the certificate (DER)
    press-07   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Two lines for a device let an old certificate and a new one overlap; a line removed ends what its certificate signs with
the next request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from margo_gitops.digests import Digest, parse_digest
from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import is_client
from margo_gitops.server.watched_file import said_lines


def read_accepted_certificates(text: str, path: Path) -> Mapping[Digest, str]:
    """Return the device of each accepted certificate.

    Raises:
        ServerMisconfigured: a line is none of such a file.
    """
    devices: dict[Digest, str] = {}
    for where, line in said_lines(text, path):
        try:
            device, digest = _read_line(line.split())
        except ValueError as error:
            raise ServerMisconfigured(
                f"no line of a list of certificates: {error}",
                where=where,
                remedy="write: DEVICE sha256:<64 hex digits>; openssl x509 -in FILE -outform DER | sha256sum has them",
            ) from None
        if digest in devices:
            raise ServerMisconfigured(
                "the certificate stands in the file twice", where=where, remedy="give every device one of its own"
            )
        devices[digest] = device
    return devices


def _read_line(fields: list[str]) -> tuple[str, Digest]:
    if len(fields) != 2:
        raise ValueError(f"{len(fields)} fields instead of 2")
    device, digest = fields
    if not is_client(device):
        raise ValueError("the first field is no client's id (a device id without a slash)")
    try:
        return device, parse_digest(digest)
    except ValueError:
        raise ValueError("the second field is no sha256 digest") from None

"""Where a device reads its desired state over HTTP, checked by the rules of `web.source`, and how much it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.documents.declarations import About, Problem, Text
from margo_gitops.documents.state_layout import StateBounds
from margo_gitops.settings import Duration, FilePath, spell_duration
from margo_gitops.values import dataclass
from margo_gitops.web.source import (
    TLS_SETTINGS,
    WebSource,
    check_foreign,
    check_secrets,
    check_times,
    parse_address,
    refuse_settings,
    settings_of,
)

Algorithm: TypeAlias = Literal["ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-v1_5-sha256", "rsa-pss-sha256"]
"""How requests of the older contract are signed (RFC 9421; the last one is Margo's own name)."""

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")
CLIENT_ID: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~-]{1,200}")
"""A client id: a segment of a path, and nothing that changes the path."""

_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._~-]+)+")
_LONGEST_WAIT: Final = 300.0
_REMEDY: Final = "give https://host[:port], with the path before /api/v1 if there is one"


@dataclass(frozen=True, slots=True)
class HttpSettings(WebSource):
    """A server of the Margo API, or static files in its layout: https or http."""

    wait: Annotated[
        Duration, About("How long the server may keep a poll waiting for a change; 0 for not at all.", ("60s",))
    ] = 0
    server_spiffe_id: Annotated[
        str | None,
        About(
            "The SPIFFE ID that the server's certificate must have; then its host name does not count.",
            ("spiffe://plant.example/margo/wfm/main",),
        ),
        Text(min_length=1),
    ] = None
    report_status: Annotated[bool, About("Send the status of each deployment when it changes.")] = True
    send_boot: Annotated[
        bool, About("Name this boot in each request: then a server of enrolled devices notices a copy of this one.")
    ] = False
    contract: Annotated[
        Literal["g1", "g2"], About("Which version of Margo's API the server has; g1: client ids and signed requests.")
    ] = "g2"
    signing_certificate: Annotated[
        FilePath | None, About("Certificate (PEM) that a server of g1 knows the device by.")
    ] = None
    signing_key: Annotated[FilePath | None, About("Private key (PEM) that signs requests; for g1.")] = None
    signature_algorithm: Annotated[
        Algorithm | None, About("How requests are signed; by default, as the key's kind says.")
    ] = None
    client_id: Annotated[
        str | None,
        About("The client id that a server of g1 has issued; by default, the device asks for one."),
        Text(min_length=1),
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a wait during which the agent would be lost to everything else."""
        if self.wait > _LONGEST_WAIT:
            yield Problem(("wait",), f"must be at most 5m, is {spell_duration(self.wait)}")


@dataclass(frozen=True, slots=True)
class HttpSource(HttpSettings):
    """Settings of one source; made once, checked when made (`SourceMisconfigured`).

    Its URL is the base of the API, `https://host[:port][/prefix]`: the part before `/api/v1/deployments`. A poll
    that waits for a change waits longer than `read_seconds`, and does not count for `pull_seconds`.

    Attributes:
        device: this device's id, as the fleet names it; for the older contract.
        client_id_file: where the issued client id is kept; None: nowhere.
    """

    device: str | None = None
    client_id_file: Path | None = None

    @classmethod
    def of(cls, settings: HttpSettings, device: str, client_id_file: Path) -> HttpSource:
        """Return the source that a device's settings describe."""
        return cls(**settings_of(settings), device=device, client_id_file=client_id_file)

    def __post_init__(self) -> None:
        """Check the settings."""
        address = parse_address(self.url, ("https", "http"), _REMEDY)
        if not _PATH.fullmatch(address.path):
            refuse_settings("the path in the URL of the source holds what no path may hold", _REMEDY)
        if address.scheme == "http":
            check_foreign(self, (*TLS_SETTINGS, "server_spiffe_id"), address)
        if self.server_spiffe_id is not None and not _SPIFFE_ID.fullmatch(self.server_spiffe_id):
            refuse_settings("the SPIFFE ID of the server is not valid", "write spiffe://<trust domain>/margo/wfm/<id>")
        check_secrets(self, address)
        check_times(self)
        self._check_contract()

    def _check_contract(self) -> None:
        if self.contract == "g1":
            if self.signing_certificate is None or self.signing_key is None or self.device is None:
                refuse_settings(
                    "the older contract needs a device that signs its requests",
                    "name its certificate and its key: signingCertificate, signingKey",
                )
            if self.client_id is not None and not CLIENT_ID.fullmatch(self.client_id):
                refuse_settings("the client id of the source is not valid", "write the id that the server has issued")
        elif any((self.signing_certificate, self.signing_key, self.signature_algorithm, self.client_id)):
            refuse_settings(
                "the current contract has no signed requests and no client ids",
                "remove these settings, or write contract: g1",
            )

    @property
    def prefix(self) -> str:
        """The path before `/api/v1`, without a slash at its end."""
        return self.address.path.rstrip("/")


# Header and padding of one file in a tar archive.
_TAR_FILE = 1024
# What gzip and chunks may add to content that does not compress.
_PACKING = 64 * 1024


@dataclass(frozen=True, slots=True)
class HttpLimits(StateBounds):
    """Bounds on one pull, of the decoded content; each is checked before the memory is allocated.

    Attributes:
        problem_bytes: size of what a server says with an error.
    """

    problem_bytes: int = 64 * 1024

    @property
    def archive_bytes(self) -> int:
        """Size of a bundle, unpacked from gzip."""
        return self.total_bytes + self.deployments * _TAR_FILE + _PACKING

    @property
    def bundle_bytes(self) -> int:
        """Size of a bundle as served."""
        return self.archive_bytes + _PACKING

"""Where a device reads its desired state by git, checked by the rules of `web.source`, and how much it takes."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult

from margo_gitops.documents.declarations import About, Text, Wire
from margo_gitops.documents.state_layout import StateBounds, device_ref
from margo_gitops.errors import SourceMisconfigured
from margo_gitops.settings import FilePath
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

_KINDS = ("https", "http", "ssh", "file")
_SSH_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:-]*")
_HTTP_ONLY = ("token_file", "token_variable", "username", *TLS_SETTINGS)
_SSH_ONLY = ("ssh_identity", "ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class GitSettings(WebSource):
    """A git repository that holds rendered state: https, http, ssh or file."""

    ref: Annotated[
        str | None,
        About("Read this ref instead of the device's own branch.", ("refs/heads/devices/press-07",)),
        Text(min_length=1),
    ] = None
    ssh_identity: Annotated[FilePath | None, About("Private key for ssh.")] = None
    ssh_known_hosts: Annotated[FilePath | None, Wire("knownHosts"), About("Host keys of the ssh server.")] = None


@dataclass(frozen=True, slots=True)
class GitSource(GitSettings):
    """Settings of one source; made once, checked when made (`SourceMisconfigured`).

    Its URL is `https://host[:port]/path`, `http://…`, `ssh://[user@]host[:port]/path` or `file:///path`. Without an
    identity or known hosts, ssh's own configuration chooses.

    Attributes:
        device: the device whose branch is read; None where the settings name a ref.
    """

    device: str | None = None

    @classmethod
    def of(cls, settings: GitSettings, device: str) -> GitSource:
        """Return the source that a device's settings describe."""
        return cls(**settings_of(settings), device=device if settings.ref is None else None)

    def __post_init__(self) -> None:
        """Check the settings."""
        address = _parts(self.url)
        _check_ref(self.device, self.ref)
        foreign = {"https": _SSH_ONLY, "http": (*_SSH_ONLY, *TLS_SETTINGS), "ssh": _HTTP_ONLY}
        check_foreign(self, foreign.get(address.scheme, (*_HTTP_ONLY, *_SSH_ONLY)), address)
        check_secrets(self, address)
        check_times(self)

    @property
    def ref_name(self) -> bytes:
        """The one ref that is read."""
        return (device_ref(self.device) if self.device is not None else self.ref or "").encode()


def _parts(url: str) -> SplitResult:
    remedy = "give https://host/path, ssh://user@host/path or file:///path"
    address = parse_address(url, _KINDS, remedy)
    if address.path in ("", "/"):
        refuse_settings("the URL of the source names no repository", remedy)
    if address.scheme == "file" and address.netloc not in ("", "localhost"):
        refuse_settings("a file URL names another machine", "give file:///path with three slashes")
    if address.scheme == "ssh":
        if not address.hostname or address.port == 0:
            refuse_settings("the URL of the source names no host", remedy)
        # A leading dash would become an option of ssh.
        for name in (address.hostname, address.username or "git"):
            if not _SSH_NAME.fullmatch(name):
                refuse_settings("the host or the user of the ssh URL holds characters that no such name holds", remedy)
    return address


def _check_ref(device: str | None, ref: str | None) -> None:
    if (device is None) == (ref is None):
        refuse_settings("either a device or a ref is needed, and not both", "name the device")
    if device is not None:
        try:
            device_ref(device)
        except ValueError as error:
            raise SourceMisconfigured(
                str(error), remedy="give the id of the device as the fleet repo names it"
            ) from error
    if ref is not None:
        from dulwich.refs import Ref, check_ref_format  # few devices name a ref

        if not (ref.isascii() and ref.startswith("refs/") and check_ref_format(Ref(ref.encode()))):
            refuse_settings(f"{ref!r} is not the full name of a ref", "give it as refs/heads/…")


_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GitLimits:
    """Bounds on one pull; each is checked before the memory it speaks of is allocated.

    Attributes:
        pack_bytes: compressed bytes of one pack.
        objects: objects in one pack.
        object_bytes: bytes of one object once inflated, deltas and their results included.
        inflated_bytes: bytes of all objects of one pull once inflated, deltas and their results included.
        deployments: files in the `deployments` folder of a device tree.
        listing_bytes: bytes of a capability advertisement, or of an answer to `ls-refs`. Room for 100,000 refs, though
            one is asked for: `ref-prefix` is a prefix, and `line` is one of `line-00001` and all its sisters.
    """

    pack_bytes: int = 16 * _MIB
    objects: int = 4096
    object_bytes: int = 8 * _MIB
    inflated_bytes: int = 64 * _MIB
    deployments: int = StateBounds().deployments
    listing_bytes: int = 8 * _MIB

    @property
    def answer_bytes(self) -> int:
        """Bytes of one whole answer: a pack in the smallest packets that make sense, and some talk around it."""
        return 2 * self.pack_bytes + self.listing_bytes

"""The server under test, and who asks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from margo_gitops.documents.device_id import is_device_id
from margo_gitops.errors import ServerNotCheckable

_LONGEST_TOKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server, and the device that asks it.

    Attributes:
        url: of the repository, or what stands before /api/v1/deployments.
        device: id of the device.
        token: its access token; empty where a certificate identifies it.
        other_device: id of a device that the credentials are not for; empty for none.
        other_token: its token; empty for none.
        username: send tokens as the password of this user (Basic); empty for Bearer.
        ca_file: certificates to trust instead of the system's.
        certificate: client certificate and key in one file.
        seconds: the longest that one answer may take.
        reports: "all" sends valid reports too, "invalid" only ones that change nothing, "none" is for servers that
            take no reports.
    """

    url: str
    device: str
    token: str = field(default="", repr=False)
    other_device: str = ""
    other_token: str = field(default="", repr=False)
    username: str = ""
    ca_file: Path | None = None
    certificate: Path | None = None
    seconds: float = 30
    reports: str = "invalid"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ServerNotCheckable: they cannot work.
        """
        try:
            address = urlsplit(self.url)
            port_is_one = address.port != 0
        except ValueError:
            raise _refused("the URL is none", "give https://host/path") from None
        if address.scheme not in ("http", "https") or not address.hostname or not port_is_one:
            raise _refused("the URL is none of http or https", "give https://host/path")
        if address.username or address.password:
            raise _refused("the URL holds credentials", "put the token into a file, and name it with --token-file")
        if address.query or address.fragment:
            raise _refused("the URL has a query or a fragment", "give what stands before the API, or the repository")
        for device in (self.device, self.other_device):
            if device and not is_device_id(device):
                raise _refused(f"{device[:80]!r} is no device id", "give the id as the fleet repo names it")
        if self.device == self.other_device:
            raise _refused("the other device is the same", "name a device that the credentials are not for")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no report may hold."""
        return tuple(each for each in (self.token, self.other_token) if each)

    @property
    def prefix(self) -> str:
        """The path of the URL, without a slash at its end."""
        return urlsplit(self.url).path.rstrip("/")


def read_token(path: Path | None) -> str:
    """Return the token in a file; empty for no file.

    Raises:
        ServerNotCheckable: it cannot be read, or holds no token.
    """
    if path is None:
        return ""
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(_LONGEST_TOKEN).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _refused(f"the token file {path} cannot be read: {why}", "name a file that holds a token") from error
    if not token or not token.isprintable() or " " in token:
        raise _refused(f"{path} holds no token", "put the token there, and nothing else")
    return token


def _refused(what: str, remedy: str) -> ServerNotCheckable:
    return ServerNotCheckable(what, remedy=remedy)

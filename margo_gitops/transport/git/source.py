"""Where a device reads its desired state by git, and how it proves who it is.

Rules, checked before anything is sent:

1. The URL is http, https, ssh or file, of this form only, and holds no credentials (an SSH user is a name, no secret).
2. A secret travels encrypted: over https, over the loopback, or where the settings say otherwise in so many words.
3. A setting that belongs to another kind of URL is an error: it would look as if it protected something.
4. A secret is named by its file or its environment variable. It never is in a setting, an argument, a log or an error.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from dulwich.refs import Ref, check_ref_format

from margo_gitops.documents.device_id import device_ref
from margo_gitops.errors import SourceMisconfigured

_KINDS = ("https", "http", "ssh", "file")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SSH_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:-]*")
_HTTP_ONLY = ("token_file", "token_variable", "username", "ca_file", "client_certificate", "client_key")
_SSH_ONLY = ("ssh_identity", "ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class GitSource:
    """Settings of one source; made once, checked when made.

    Attributes:
        url: `https://host[:port]/path`, `http://…`, `ssh://[user@]host[:port]/path` or `file:///path`.
        device: the device whose branch is read.
        ref: a full ref name instead of a device.
        token_file: file that holds the token and nothing else; read again whenever it changes.
        token_variable: name of the environment variable that holds the token; read at each pull.
        username: send the token as the password of this user (Basic) instead of as a bearer token.
        allow_plain_token: let the token travel over http to another machine.
        ca_file: certificates (PEM) to trust instead of the system's.
        client_certificate: certificate chain (PEM) to present to the server.
        client_key: its private key (PEM, unencrypted); None where it is in the file of the certificate.
        ssh_identity: private key file for ssh; None leaves the choice to ssh's own configuration.
        ssh_known_hosts: file with the server's host keys; None leaves the choice to ssh's own configuration.
        proxy_from_environment: honour http_proxy, https_proxy and no_proxy. Off: a proxy sees every plain request, and
            the environment of a service is the last place where anybody looks for one.
        connect_seconds: bound on one connection attempt, TLS included.
        read_seconds: bound on each wait for the other side.
        pull_seconds: bound on one whole pull.
    """

    url: str
    device: str | None = None
    ref: str | None = None
    token_file: Path | None = None
    token_variable: str | None = None
    username: str | None = None
    allow_plain_token: bool = False
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    ssh_identity: Path | None = None
    ssh_known_hosts: Path | None = None
    proxy_from_environment: bool = False
    connect_seconds: float = 15
    read_seconds: float = 30
    pull_seconds: float = 300

    def __post_init__(self) -> None:
        """Check the rules of this module.

        Raises:
            SourceMisconfigured: one is broken.
        """
        address = _address(self.url)
        _check_ref(self.device, self.ref)
        self._check_kind(address)
        self._check_secrets(address)
        if min(self.connect_seconds, self.read_seconds, self.pull_seconds) <= 0:
            raise SourceMisconfigured("a bound on time is not positive", remedy="give it in seconds, more than 0")

    @property
    def address(self) -> SplitResult:
        """The URL in its parts."""
        return urlsplit(self.url)

    @property
    def ref_name(self) -> bytes:
        """The one ref that is read."""
        return (device_ref(self.device) if self.device is not None else self.ref or "").encode()

    def _check_kind(self, address: SplitResult) -> None:
        foreign = [] if address.scheme in ("http", "https") else [name for name in _HTTP_ONLY if getattr(self, name)]
        if address.scheme != "ssh":
            foreign += [name for name in _SSH_ONLY if getattr(self, name)]
        if address.scheme == "http":
            foreign += [name for name in ("ca_file", "client_certificate", "client_key") if getattr(self, name)]
        if foreign:
            raise SourceMisconfigured(
                f"{', '.join(foreign)} cannot be used with a URL of the kind {address.scheme}://",
                remedy="remove the setting, or correct the URL",
            )

    def _check_secrets(self, address: SplitResult) -> None:
        if self.token_file and self.token_variable:
            _refuse("the token is given twice, by a file and by an environment variable", "keep one of them")
        if self.token_variable and not _ENVIRONMENT_NAME.fullmatch(self.token_variable):
            _refuse(
                "the name of the token's environment variable is no name",
                "give the variable's name, not the token itself",
            )
        token = bool(self.token_file or self.token_variable)
        if self.username is not None:
            if not token:
                _refuse("a username is given, but no token", "name the file or the variable that holds it")
            if not self.username.isprintable() or ":" in self.username:
                _refuse("the username holds a colon or characters that cannot be printed", "correct it")
        if self.client_key and not self.client_certificate:
            _refuse("a client key is given, but no client certificate", "name the certificate's file too")
        if token and address.scheme == "http" and not self.allow_plain_token and not _is_loopback(address.hostname):
            _refuse(
                f"the token would travel unencrypted to {address.hostname}",
                "use https, or allow a plain token where nobody else can listen",
            )


def _address(url: str) -> SplitResult:
    """Return the parts of a URL that passes rule 1. What is refused is not shown: it may hold a secret."""
    remedy = "give https://host/path, ssh://user@host/path or file:///path"
    if not url.isascii() or not url.isprintable() or " " in url:
        _refuse("the URL of the source holds blanks or characters that no URL may hold", remedy)
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError:
        _refuse("the URL of the source is no URL", remedy)
    if address.scheme not in _KINDS:
        _refuse(f"the URL of the source is of none of the kinds {', '.join(_KINDS)}", remedy)
    if address.password is not None or (address.username is not None and address.scheme != "ssh"):
        _refuse(
            "the URL of the source holds credentials, which end up in process lists and logs",
            "take them out, and name a file or a variable that holds the token",
        )
    _check_place(address, remedy)
    return address


def _check_place(address: SplitResult, remedy: str) -> None:
    if address.query or address.fragment:
        _refuse("the URL of the source holds a query or a fragment", remedy)
    if address.path in ("", "/"):
        _refuse("the URL of the source names no repository", remedy)
    if address.scheme == "file":
        if address.netloc not in ("", "localhost"):
            _refuse("a file URL names another machine", "give file:///path with three slashes")
    elif not address.hostname or address.port == 0:
        _refuse("the URL of the source names no host", remedy)
    if address.scheme == "ssh":
        # A leading dash would become an option of ssh.
        for name in (address.hostname or "", address.username or "git"):
            if not _SSH_NAME.fullmatch(name):
                _refuse("the host or the user of the ssh URL holds characters that no such name holds", remedy)


def _check_ref(device: str | None, ref: str | None) -> None:
    if (device is None) == (ref is None):
        _refuse("either a device or a ref is needed, and not both", "name the device")
    if device is not None:
        try:
            device_ref(device)
        except ValueError as error:
            raise SourceMisconfigured(
                str(error), remedy="give the id of the device as the fleet repo names it"
            ) from error
    if ref is not None and not (ref.isascii() and ref.startswith("refs/") and check_ref_format(Ref(ref.encode()))):
        _refuse(f"{ref!r} is no full name of a ref", "give it as refs/heads/…")


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _refuse(what: str, remedy: str) -> NoReturn:
    raise SourceMisconfigured(what, remedy=remedy)

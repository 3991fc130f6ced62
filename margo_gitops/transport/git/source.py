"""Where a device reads its desired state by git: the settings, checked by the rules of `transport.web.source`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from dulwich.refs import Ref, check_ref_format

from margo_gitops.documents.device_id import device_ref
from margo_gitops.errors import SourceMisconfigured
from margo_gitops.transport.web.source import (
    TLS_SETTINGS,
    check_foreign,
    check_secrets,
    check_times,
    parse_address,
    refuse_settings,
)

_KINDS = ("https", "http", "ssh", "file")
_SSH_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:-]*")
_HTTP_ONLY = ("token_file", "token_variable", "username", *TLS_SETTINGS)
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
        """Check the settings.

        Raises:
            SourceMisconfigured: they cannot work, or would give a secret away.
        """
        address = _parts(self.url)
        _check_ref(self.device, self.ref)
        self._check_kind(address)
        check_secrets(self, address)
        check_times(self)

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
            foreign += [name for name in TLS_SETTINGS if getattr(self, name)]
        check_foreign(foreign, address)


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
    if ref is not None and not (ref.isascii() and ref.startswith("refs/") and check_ref_format(Ref(ref.encode()))):
        refuse_settings(f"{ref!r} is no full name of a ref", "give it as refs/heads/…")

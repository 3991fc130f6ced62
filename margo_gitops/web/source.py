"""Where a device reads over HTTP, and how it proves who it is: what every source of this kind has, and its rules.

Rules, checked before anything is sent; one that is broken is `SourceMisconfigured`:

1. The URL is of one of the kinds named, of this form only, and holds no credentials (an SSH user is a name, no secret).
2. A secret travels encrypted: over https, over the loopback, or where the settings say otherwise in so many words.
3. A setting that belongs to another kind of URL is an error: it would look as if it protected something.
4. A secret is named by its file or its environment variable. It never is in a setting, an argument, a log or an error.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from margo_gitops.documents.declarations import About, Text, Wire
from margo_gitops.errors import SourceMisconfigured
from margo_gitops.settings import Duration, FilePath
from margo_gitops.values import dataclass, fields

TLS_SETTINGS = ("ca_file", "client_certificate", "client_key")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class WebSource:
    """What every source on the network has; each kind of source adds its own, and checks all when it is made.

    A token or certificate file is read again when it changes, a token's variable at each request. The environment's
    proxy is off by default: it would see every plain request.
    """

    url: Annotated[
        str,
        About("Where the source is; never with credentials in it.", ("https://git.example/s.git",)),
        Text(min_length=1),
    ]
    token_file: Annotated[
        FilePath | None, About("File that holds an access token and nothing else; read again when it changes.")
    ] = None
    token_variable: Annotated[
        str | None,
        Wire("tokenEnvironment"),
        About("Name of the environment variable that holds the token, instead of a file."),
        Text(min_length=1),
    ] = None
    username: Annotated[
        str | None, About("Send the token as this user's password instead of as a bearer token."), Text(min_length=1)
    ] = None
    allow_plain_token: Annotated[bool, About("Let the token travel over http to another machine.")] = False
    ca_file: Annotated[FilePath | None, About("Certificates (PEM) to trust instead of the system's.")] = None
    client_certificate: Annotated[FilePath | None, About("Certificate chain (PEM) that the device presents.")] = None
    client_key: Annotated[FilePath | None, About("Private key (PEM) of the client certificate.")] = None
    proxy_from_environment: Annotated[bool, About("Honour http_proxy, https_proxy and no_proxy.")] = False
    connect_seconds: Annotated[Duration, Wire("connectTimeout"), About("Longest connection attempt, TLS included.")] = (
        15
    )
    read_seconds: Annotated[Duration, Wire("readTimeout"), About("Longest silence of the source.")] = 30
    pull_seconds: Annotated[Duration, Wire("pullTimeout"), About("Longest pull as a whole.")] = 300

    @property
    def address(self) -> SplitResult:
        """The URL in its parts."""
        return urlsplit(self.url)


def settings_of(source: WebSource) -> dict[str, Any]:
    """Return settings by name, to make a source of them."""
    return {each.name: getattr(source, each.name) for each in fields(source)}


def parse_address(url: str, kinds: Sequence[str], remedy: str) -> SplitResult:
    """Return the parts of a URL that passes rule 1. What is refused is not shown: it may hold a secret."""
    if not url.isascii() or not url.isprintable() or " " in url:
        refuse_settings(
            "the URL of the source holds blanks or characters that no URL may hold",
            f"{remedy}; a blank is written %20, and other characters in the same way",
        )
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError:
        refuse_settings("the URL of the source is not a URL", remedy)
    if address.scheme not in kinds:
        refuse_settings(f"the URL of the source is of none of the kinds {', '.join(kinds)}", remedy)
    if address.password is not None or (address.username is not None and address.scheme != "ssh"):
        refuse_settings(
            "the URL of the source holds credentials, which end up in process lists and logs",
            "take them out, and name a file or a variable that holds the token",
        )
    if address.query or address.fragment:
        refuse_settings("the URL of the source holds a query or a fragment", remedy)
    if address.scheme in ("http", "https") and (not address.hostname or address.port == 0):
        refuse_settings("the URL of the source names no host", remedy)
    return address


def check_secrets(source: WebSource, address: SplitResult) -> None:
    """Check how the device proves who it is (rules 2 and 4)."""
    if source.token_file and source.token_variable:
        refuse_settings("the token is given twice, by a file and by an environment variable", "keep one of them")
    if source.token_variable and not _ENVIRONMENT_NAME.fullmatch(source.token_variable):
        refuse_settings(
            "the name of the token's environment variable is not valid",
            "write the variable's name, not the token",
        )
    token = bool(source.token_file or source.token_variable)
    if source.username is not None:
        if not token:
            refuse_settings("a username is given, but no token", "name the file or the variable that holds it")
        if not source.username.isprintable() or ":" in source.username:
            refuse_settings("the username holds a colon or characters that cannot be printed", "correct it")
    if source.client_key and not source.client_certificate:
        refuse_settings("a client key is given, but no client certificate", "name the certificate's file too")
    if token and address.scheme == "http" and not source.allow_plain_token and not is_loopback(address.hostname):
        refuse_settings(
            f"the token would travel unencrypted to {address.hostname}",
            "use https, or allow a plain token where no other machine can listen",
        )


def check_foreign(source: WebSource, names: Sequence[str], address: SplitResult) -> None:
    """Refuse settings, by name, that belong to another kind of URL (rule 3)."""
    if foreign := [name for name in names if getattr(source, name)]:
        refuse_settings(
            f"{', '.join(foreign)} cannot be used with a URL of the kind {address.scheme}://",
            "remove the setting, or correct the URL",
        )


def check_times(source: WebSource) -> None:
    """Check the bounds on time."""
    if min(source.connect_seconds, source.read_seconds, source.pull_seconds) <= 0:
        refuse_settings("a bound on time is not positive", "give it in seconds, more than 0")


def refuse_settings(what: str, remedy: str) -> NoReturn:
    """Refuse the settings of a source, with `SourceMisconfigured`."""
    raise SourceMisconfigured(what, remedy=remedy)


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine itself, and nothing leaves it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False

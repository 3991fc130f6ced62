"""Prove a user to a registry: Basic, or a token from the token server that it names (OCI distribution, Docker's flow).

OCI-1  Credentials go to the registry they are for, and to the token server that it names: over https, on the same
            domain, or named in the settings. No other host gets any, and no redirect carries one.
OCI-2  A token is asked for what is needed, pull or push of one repository, and not for what the registry proposes.
OCI-3  A request that is refused with fresh credentials is refused: there is no second try.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from typing import Final, NoReturn
from urllib.parse import SplitResult, urlencode, urlsplit

from margo_gitops.errors import RegistryMisbehaved, RegistryRefused
from margo_gitops.registry.credentials import HostCredentials
from margo_gitops.registry.manifests import read_foreign
from margo_gitops.registry.settings import RegistryAccess, is_private, web_source
from margo_gitops.values import dataclass
from margo_gitops.web.connection import WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import shown

_MOST_TOKEN: Final = 64 * 1024
_LONGEST_CHALLENGE: Final = 8 * 1024
_PARAMETER: Final = re.compile(r'[\s,]*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME: Final = re.compile(r"[\s,]*([A-Za-z]{1,32})(?=\s|$)")


@dataclass(frozen=True, slots=True)
class _Token:
    token: str | None = None
    access_token: str | None = None


class Authentication:
    """The Authorization header for one host; a token is kept for each scope."""

    def __init__(
        self, access: RegistryAccess, credentials: Callable[[], HostCredentials | None], *, proxy_from_environment: bool
    ) -> None:
        """Take what is needed; nothing is read yet.

        Args:
            access: how the registry is reached.
            credentials: returns those for this host; None: no one logged in.
        """
        self._access = access
        self._credentials = credentials
        self._proxy = proxy_from_environment
        self._basic: str | None = None
        self._tokens: dict[str, str] = {}

    def header(self, scope: str) -> str | None:
        """Return the header for a request, as far as a challenge told how; None for none."""
        return self._basic or self._tokens.get(scope)

    def renew(self, challenge: str, scope: str, deadline: Deadline) -> None:
        """Make the header that a 401 asks for.

        Args:
            challenge: the WWW-Authenticate header.
            scope: what is needed, `repository:acme/hello:pull`; empty for nothing but the user.

        Raises:
            RegistryRefused: there are no credentials, or they were refused.
            TransportError: the token server gives no usable answer.
        """
        known = parse_challenges(challenge)
        if "bearer" in known:
            self._tokens[scope] = f"Bearer {self._fetch_token(known['bearer'], scope, deadline)}"
            return
        if "basic" not in known:
            raise RegistryMisbehaved(f"{self._access.host} wants credentials in a way that is not known here")
        credentials = self._credentials()
        if self._basic is not None or credentials is None or not credentials.username:
            self._refuse("refuses the credentials" if self._basic else "wants credentials")
        if not is_private(web_source(self._access, proxy_from_environment=False)):
            raise RegistryRefused(
                f"the credentials for {self._access.host} would travel unencrypted", remedy="use a registry with https"
            )
        self._basic = _basic(credentials)

    def _refuse(self, what: str) -> NoReturn:
        host = self._access.host
        raise RegistryRefused(f"{host} {what}", remedy=f"log in: margo-gitops registry login {host}")

    def _fetch_token(self, named: dict[str, str], scope: str, deadline: Deadline) -> str:
        realm = named.get("realm", "")
        address = self._token_server(realm)
        source = web_source(self._access, proxy_from_environment=self._proxy, url=realm)
        credentials = self._credentials()
        if credentials is not None and not (is_private(source) and self._may_know(address.hostname or "")):
            raise RegistryRefused(
                f"{self._access.host} asks to send its credentials to {address.hostname}, a host of another domain",
                remedy="if that is its token server, name it as tokenServer in the settings of this registry",
            )
        wanted = {name: value for name, value in (("service", named.get("service")), ("scope", scope)) if value}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        method, body, target = "GET", b"", address.path or "/"
        if credentials is not None and not credentials.username:
            form = {"grant_type": "refresh_token", "client_id": "margo-gitops", "refresh_token": credentials.secret}
            method, body = "POST", urlencode({**wanted, **form}).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            query = "&".join(filter(None, (address.query, urlencode(wanted))))
            target += f"?{query}" if query else ""
            headers |= {"Authorization": _basic(credentials)} if credentials is not None else {}
        with (
            closing(WebConnection(source, Meter())) as connection,
            connection.exchange(method, target, headers, body, _MOST_TOKEN, deadline) as answer,
        ):
            content = answer.read(_MOST_TOKEN + 1)
            if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST):
                self._refuse("refuses the credentials" if credentials else "wants credentials")
            if answer.status != HTTPStatus.OK:
                raise RegistryMisbehaved(f"the token server {address.hostname} answers {answer.status}")
        found = read_foreign(_Token, content, f"the token of {address.hostname}")
        token = found.token or found.access_token or ""
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryMisbehaved(f"the token server {address.hostname} gives no token")
        return token

    def _token_server(self, realm: str) -> SplitResult:
        try:
            address = urlsplit(realm)
            usable = bool(address.hostname) and address.port != 0 and address.username is None
        except ValueError:
            address, usable = urlsplit(""), False
        schemes = ("https", "http") if self._access.plain_http else ("https",)
        plain = realm.isascii() and realm.isprintable() and " " not in realm
        if not usable or not plain or address.scheme not in schemes:
            shorter = shown(realm.encode())
            raise RegistryMisbehaved(f"{self._access.host} names a token server that cannot be used: {shorter}")
        return address

    def _may_know(self, host: str) -> bool:
        own = urlsplit(f"//{self._access.host}").hostname or ""
        if host in (own, urlsplit(f"//{self._access.token_server or ''}").hostname):
            return True
        domain = own.partition(".")[2]
        # Of registry.example.com that is example.com; an address or a name with one dot has no domain to share.
        return domain.count(".") > 0 and not own.replace(".", "").isdecimal() and f".{host}".endswith(f".{domain}")


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each scheme of a WWW-Authenticate header, by scheme in lower case (RFC 9110, 11.6.1)."""
    found: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    at, text = 0, header[:_LONGEST_CHALLENGE]
    while at < len(text):
        if found and (match := _PARAMETER.match(text, at)):
            quoted = match[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match[3]
            parameters.setdefault(match[1].lower(), value)
        elif match := _SCHEME.match(text, at):
            parameters = found.setdefault(match[1].lower(), {})
        else:
            break
        at = match.end()
    return found


def _basic(credentials: HostCredentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()

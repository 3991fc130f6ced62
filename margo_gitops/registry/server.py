"""Speak with one host that serves the registry API: credentials, waiting, and what its refusals mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Final

from margo_gitops.documents.declarations import Items
from margo_gitops.errors import (
    RegistryLacks,
    RegistryMisbehaved,
    RegistryRefused,
    SourceBusy,
    SourceMisbehaved,
    TransportError,
)
from margo_gitops.registry.authentication import Authentication
from margo_gitops.registry.credentials import HostCredentials
from margo_gitops.registry.manifests import read_foreign
from margo_gitops.registry.settings import RegistrySettings, web_source
from margo_gitops.values import dataclass
from margo_gitops.web.connection import Body, WebAnswer, WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import REDIRECTS, retry_after, shown

_SMALL: Final = 64 * 1024
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_DEFAULT_WAIT: Final = 5.0


class Patience:
    """How long servers that ask for it are waited for, in all."""

    def __init__(self, seconds: float, pause: Callable[[float], None] = time.sleep) -> None:
        self._left = seconds
        self._pause = pause

    def wait(self, asked: float | None) -> bool:
        """Wait as long as a server asks; False: that is longer than what is left."""
        seconds = max(_DEFAULT_WAIT if asked is None else asked, 1.0)
        if seconds > self._left:
            return False
        self._left -= seconds
        self._pause(seconds)
        return True


class RegistryServer:
    """One host, on one kept connection.

    Attributes:
        host: as references name it.
        url: where its API is, without a path.
        ca_file: the authorities that are trusted for it.
        meter: counts what was sent and received.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        host: str,
        patience: Patience,
        credentials: Callable[[str], HostCredentials | None],
    ) -> None:
        access = settings.access(host)
        source = web_source(access, proxy_from_environment=settings.proxy_from_environment)
        self.host = host
        self.url = source.url
        self.ca_file: Path | None = access.ca_file
        self.meter = Meter()
        self._patience = patience
        self._connection = WebConnection(source, self.meter)
        self._authentication = Authentication(
            access,
            partial(credentials, host),
            proxy_from_environment=settings.proxy_from_environment,
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def exchange(
        self,
        method: str,
        target: str,
        scope: str,
        headers: Mapping[str, str],
        body: Body,
        limit: int,
        deadline: Deadline,
        *,
        whole: bool = True,
    ) -> Iterator[WebAnswer]:
        """Yield the answer to a request, of any status, with the credentials it needs.

        Args:
            scope: what a token must allow, `repository:acme/hello:pull`.
            limit: bytes that the answer may have.
            whole: whether the block must read all of it.

        Raises:
            RegistryRefused: the credentials are missing or refused.
            TransportError: no usable answer came.
        """
        renewed = False
        while True:
            challenge, pause = None, None
            authorization = self._authentication.header(scope)
            named = {**headers, **({"Authorization": authorization} if authorization else {})}
            with self._connection.exchange(method, target, named, body, limit, deadline, whole=whole) as answer:
                challenge = answer.header("WWW-Authenticate") or ""
                pause = retry_after(answer.header("Retry-After"), answer.header("Date"))
                wants = answer.status == HTTPStatus.UNAUTHORIZED and not renewed and bool(challenge)
                if not wants and answer.status not in _BUSY:
                    yield answer
                    return
                drained(answer)
                said = f"{self.host} answers {answer.status}"
            if wants:
                self._authentication.renew(challenge, scope, deadline)
                renewed = True
            elif not self._patience.wait(pause):
                raise SourceBusy(f"{said}: come back later", retry_after=pause)


def drained(answer: WebAnswer) -> bytes:
    """Return a small answer that is not what was asked for (SourceMisbehaved: it is large)."""
    content = answer.read(_SMALL + 1)
    if len(content) > _SMALL:
        raise SourceMisbehaved("the registry's refusal is longer than a refusal may be")
    return content


@dataclass(frozen=True, slots=True)
class _Problem:
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class _Problems:
    errors: Annotated[tuple[_Problem, ...], Items()] = ()


def refused(host: str, answer: WebAnswer, what: str) -> TransportError:
    """Return the error that an answer without success is.

    Args:
        what: the repository, or what else was asked for.
    """
    said = f"{host} answers {answer.status} for {what}"
    try:
        found = read_foreign(_Problems, drained(answer), host).errors
        detail = shown(" ".join(filter(None, (found[0].code, found[0].message))).encode()) if found else ""
    except TransportError:
        detail = ""
    said += f": {detail}" if detail else ""
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return RegistryRefused(said, remedy=f"log in as a user who may do this: margo-gitops registry login {host}")
    if answer.status == HTTPStatus.NOT_FOUND:
        return RegistryLacks(
            said, remedy="check the name and the version; some registries also hide it without a login"
        )
    if answer.status in REDIRECTS:
        return RegistryMisbehaved(f"{said}, a redirect to nowhere")
    return RegistryMisbehaved(said, remedy="see the log of the registry")

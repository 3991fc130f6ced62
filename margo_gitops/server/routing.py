"""The form of a route table: one row for each resource, from which all that is said and decided about it is derived.

ROUTE-1  A path is matched as it was sent, never decoded or tidied. A proxy, a framework and a file system each tidy
         paths in their own way, and every difference is a way around a rule. So a path is exactly the path of a
         resource, or of none: doubled slashes, `.` and `..`, and encoded slashes lead nowhere.
ROUTE-2  Only a parameter is decoded, after its place in the path is known: clients made from OpenAPI encode what they
         fill in, so `%3A` in a digest and `%2F` in a device id are read.
ROUTE-3  `GET` answers `HEAD` too. Any other method that a row does not name is 405 with `Allow`.
ROUTE-4  What a manifest links to has both paths: with `listen.basePath` in front, and as the link says.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Final, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import Receive, Scope

from margo_gitops.digests import DIGEST_PATTERN
from margo_gitops.documents.deployment import UUID_PATTERN
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN, is_device_id
from margo_gitops.server.identity.callers import Caller
from margo_gitops.server.problems import (
    DEPLOYMENT_NOT_FOUND,
    NOT_FOUND,
    TRUST_NOT_FOUND,
    Problem,
    RequestRefused,
    not_allowed,
)
from margo_gitops.values import dataclass, field

T = TypeVar("T")

Audience: TypeAlias = Literal["public", "device", "linked", "git"]
"""Who may call: everybody; an identified device; also a client that signs for a link of a manifest; a device by git."""

READING: Final = ("GET", "HEAD")
MAX_PATH: Final = 1024
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETER = re.compile(r"\{([A-Za-z]+)\}")


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose resource and caller are known.

    Attributes:
        parameters: the variable parts of the path, decoded.
    """

    scope: Scope
    receive: Receive
    caller: Caller
    parameters: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]
"""Answers a call, or raises `RequestRefused` with one of the statuses in its row."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A variable part of a path.

    Attributes:
        pattern: of its value, decoded.
        raw: regular expression of its form in the path.
        max_length: of its value; None: no bound.
    """

    meaning: str
    pattern: str
    raw: str = "[^/]+"
    max_length: int | None = None
    check: Callable[[str], bool] = lambda _: True
    missing: Problem = NOT_FOUND


def _is_device_in_path(device: str) -> bool:
    # No proxy on the way may have taken a segment for a step in the path.
    return is_device_id(device) and not any(segment in {".", ".."} for segment in device.split("/"))


PARAMETERS: Final[Mapping[str, Parameter]] = {
    "deploymentId": Parameter("The deployment.", UUID_PATTERN, missing=DEPLOYMENT_NOT_FOUND),
    "digest": Parameter("Digest of the bytes.", DIGEST_PATTERN),
    "deviceId": Parameter("The device.", DEVICE_ID_PATTERN, ".+", DEVICE_ID_MAX_LENGTH, _is_device_in_path),
    "version": Parameter("The version.", r"^[1-9][0-9]{0,9}$", "[1-9][0-9]{0,9}", missing=TRUST_NOT_FOUND),
    "clientId": Parameter("The client.", "^[A-Za-z0-9._~-]{1,200}$", "[A-Za-z0-9._~-]{1,200}"),
}
_VALUES: Final = {name: re.compile(parameter.pattern[1:-1]) for name, parameter in PARAMETERS.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that a resource may give; `schema` names a document."""

    status: int
    summary: str = ""
    media_type: str = ""
    schema: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """What a method of a resource does.

    Attributes:
        handle: finds the handler among the parts of a contract.
        answers: those that went well, and those that have a text of their own.
        refusals: the statuses of further problems; 429, 500 and 503 go without saying.
        headers: request headers that it looks at, with their meaning.
        body: the document that a request brings; empty for none.
    """

    handle: Callable[[T], Handler]
    summary: str
    answers: tuple[Answer, ...]
    refusals: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True)
class Route(Generic[T]):
    """A row of the table.

    Attributes:
        template: its path; `{…}` are parameters.
        operations: by method.
        at_root: whether the path has no `listen.basePath` in front.
    """

    template: str
    audience: Audience
    operations: Mapping[str, Operation[T]]
    at_root: bool = False

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """All methods (ROUTE-3)."""
        return tuple(name for method in self.operations for name in (READING if method == "GET" else (method,)))

    @property
    def parameters(self) -> Sequence[str]:
        """The names of the variable parts, in their order."""
        return _PARAMETER.findall(self.template)


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """A row, and the variable parts of a path that is its own."""

    route: Route[T]
    parameters: Mapping[str, str] = field(default_factory=dict)

    def operation(self, method: str) -> Operation[T]:
        """Return what a method does (RequestRefused: 405)."""
        found = self.route.operations.get("GET" if method == "HEAD" else method)
        if found is None:
            raise RequestRefused(not_allowed(self.route.methods))
        return found


class RouteTable(Generic[T]):
    """Rows, found by path (ROUTE-1, ROUTE-2)."""

    def __init__(self, routes: Sequence[Route[T]], base: str = "") -> None:
        """Take the rows.

        Args:
            base: a prefix of all paths that are not at the root, such as `/v1alpha2/margo`; empty for none.
        """
        self._exact: dict[bytes, Match[T]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route[T]]] = []
        for route in routes:
            template = route.template if route.at_root else f"{base}{route.template}"
            if not route.parameters:
                self._exact[template.encode()] = Match(route)
                continue
            # A link of a manifest is a path from the root: who takes it literally has no prefix (ROUTE-4).
            for each in {template, route.template} if route.audience == "linked" else {template}:
                parts = _PARAMETER.split(each)  # text and names in turn
                parts[0::2] = map(re.escape, parts[0::2])
                parts[1::2] = (f"(?P<{name}>{PARAMETERS[name].raw})" for name in parts[1::2])
                self._patterns.append((re.compile("".join(parts)), route))

    def find(self, raw_path: bytes) -> Match[T] | None:
        """Return the row of a path; None if it does not exist.

        Args:
            raw_path: the path as sent, without query.
        """
        exact = self._exact.get(raw_path)
        if exact is not None:
            return exact
        try:
            path = raw_path.decode("ascii")
        except UnicodeDecodeError:
            return None
        if len(path) > MAX_PATH or _ESCAPES.search(path):
            return None
        for pattern, route in self._patterns:
            found = pattern.fullmatch(path)
            values = _read(found.groupdict()) if found else None
            if values is not None:
                return Match(route, values)
        return None

    def missing(self, raw_path: bytes) -> Problem:
        """Return the problem of a path that has no row: it may be that of a row with a value that nothing can have."""
        path = raw_path[:MAX_PATH].decode("latin-1")
        route = next((route for pattern, route in self._patterns if pattern.fullmatch(path)), None)
        return PARAMETERS[route.parameters[0]].missing if route else NOT_FOUND


def _read(raw: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return parameters decoded; None where one is not valid."""
    values = {name: unquote_to_bytes(each).decode("latin-1") for name, each in raw.items()}
    for name, value in values.items():
        if not _VALUES[name].fullmatch(value) or not PARAMETERS[name].check(value):
            return None
    return values

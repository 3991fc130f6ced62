"""How a device switches to a deployment's new content, as people write it: what may forbid it, and what runs around it.

    locks:
      - {name: batch-running, file: line3/batch.lock, atMost: 8h}
      - {name: recipe-active, http: "http://127.0.0.1:8080/busy"}
    hooks: {before: [drain-line], after: [resume-line]}
    health: {http: "http://127.0.0.1:8080/ready", staysUp: 2m, within: 5m}

What they mean is in margo_gitops/agent/apply/locks.py and hooks.py, and in margo_gitops/appliers/readiness.py. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from margo_gitops.documents.constraints import Name
from margo_gitops.documents.declarations import About, Items, Problem, Text, span_seconds
from margo_gitops.values import dataclass, fields

LONGEST_PROBE: Final = 30.0
"""Seconds that one question may take."""
_LAST_PORT: Final = 65_535
_SPAN: Final = Text(pattern=r"^[1-9][0-9]{0,4}[smhd]$", what="30s, 90m, 8h or 2d")
_PLACE: Final = Text(
    pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
    what="a path below the device's folder of locks, in letters, digits and . _ - /",
    max_length=200,
)
_LOOPBACK_URL: Final = Text(
    pattern=r"^http://(127\.0\.0\.1|\[::1\])(:[1-9][0-9]{0,4})?(/[!-~]*)?$",
    what="a URL of the device itself, such as http://127.0.0.1:8080/busy",
    max_length=500,
)


@dataclass(frozen=True, slots=True)
class Lock:
    """What may forbid a change for now: exactly one of `file`, `flock`, `http` and `unix` is given."""

    name: Annotated[Name, About("For people.", ("batch-running",))]
    file: Annotated[
        str | None,
        About("Held while this file exists, below the device's folder of locks.", ("line3/batch.lock",)),
        _PLACE,
    ] = None
    flock: Annotated[
        str | None,
        About("Held while a process holds this file's lock (flock), below the device's folder of locks."),
        _PLACE,
    ] = None
    http: Annotated[
        str | None,
        About("Asked with GET: 200 is free, 409 and 423 are held.", ("http://127.0.0.1:8080/busy",)),
        _LOOPBACK_URL,
    ] = None
    unix: Annotated[
        str | None,
        About("The same over this socket, below the device's folder of locks; the path asked for is /."),
        _PLACE,
    ] = None
    timeout: Annotated[str, About(f"How long the answer may take; at most {LONGEST_PROBE:.0f}s.", ("5s",)), _SPAN] = (
        "5s"
    )
    at_most: Annotated[
        str | None, About("After this time the change goes ahead. Default: it waits without end.", ("8h",)), _SPAN
    ] = None
    silent: Annotated[
        Literal["held", "free"], About("What another answer means, or none: a file that cannot be looked at, too.")
    ] = "held"
    yields: Annotated[bool, About("An `urgent` deployment does not wait for it.")] = False

    def problems(self) -> Iterator[Problem]:
        """Yield a choice that was not made or was made twice, and a time and a port that cannot be."""
        if sum(each is not None for each in (self.file, self.flock, self.http, self.unix)) != 1:
            yield Problem((), "must name exactly one of file, flock, http and unix", "keep one of them")
        if span_seconds(self.timeout) > LONGEST_PROBE:
            yield Problem(("timeout",), f"must be at most {LONGEST_PROBE:.0f}s")
        if self.http is not None and address_of(self.http)[1] > _LAST_PORT:
            yield Problem(("http",), f"a port is at most {_LAST_PORT}")

    def as_of(self, whose: str) -> DeviceLock:
        """Return it as a device gets it."""
        return DeviceLock(**{each.name: getattr(self, each.name) for each in fields(Lock)}, of=whose)


def address_of(url: str) -> tuple[str, int, str]:
    """Return host, port and path of a URL of the device itself."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "80")
    return name.strip("[]"), int(port), f"/{path}"


@dataclass(frozen=True, slots=True)
class DeviceLock(Lock):
    """A lock as a device gets it."""

    of: Annotated[str, About("Whose it is.", ("deployment line-vision",)), Text(max_length=300)] = ""


HookNames = Annotated[tuple[Name, ...], Items(maximum=8)]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Programs of the device that run around a change; the device's configuration says where they are."""

    before: Annotated[
        HookNames,
        About("Before the first component changes: 0 continues, 21 tries later, another status fails.", (["drain"],)),
    ] = ()
    after: Annotated[HookNames, About("After the last component runs: another status than 0 is a failure.")] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """When a changed deployment counts as installed: all that is given must hold, after what its engine says."""

    http: Annotated[
        str | None,
        About("Answers GET with 2xx; on the device itself.", ("http://127.0.0.1:8080/ready",)),
        _LOOPBACK_URL,
    ] = None
    tcp: Annotated[
        str | None,
        About("Takes a connection; on the device itself.", ("127.0.0.1:502",)),
        Text(pattern=r"^(127\.0\.0\.1|\[::1\]):[1-9][0-9]{0,4}$", what="127.0.0.1:PORT or [::1]:PORT"),
    ] = None
    exec: Annotated[
        tuple[Annotated[str, Text(min_length=1, max_length=1000)], ...],
        Items(maximum=32),
        About("A command in a container of the last component that changed; it ends with 0.", (["pg_isready"],)),
    ] = ()
    service: Annotated[
        str, About("The service of the compose file that runs `exec`. Default: its first."), Text(max_length=100)
    ] = ""
    hook: Annotated[Name | None, About("A program of the device, as those of `hooks`; it ends with 0.")] = None
    stays_up: Annotated[
        str | None, About("For how long all of it must hold, and nothing may restart.", ("2m",)), _SPAN
    ] = None
    within: Annotated[str, About("By when.", ("60s",)), _SPAN] = "60s"

    def problems(self) -> Iterator[Problem]:
        """Yield a health that asks for nothing, and what cannot come true."""
        if not (self.http or self.tcp or self.exec or self.hook or self.stays_up):
            yield Problem((), "asks for nothing", "name http, tcp, exec, hook or staysUp")
        if self.stays_up is not None and span_seconds(self.stays_up) >= span_seconds(self.within):
            yield Problem(("staysUp",), f"must be less than within, {self.within}", "raise within")
        if self.service and not self.exec:
            yield Problem(("service",), "only exec runs in a service", "remove it, or name a command")
        for name, place in (("http", self.http), ("tcp", self.tcp)):
            if place is not None and address_of(place)[1] > _LAST_PORT:
                yield Problem((name,), f"a port is at most {_LAST_PORT}")

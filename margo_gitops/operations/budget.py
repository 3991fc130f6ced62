"""What a fleet costs: requests, bytes, processor and memory, and what a git host allows; pure.

The costs of one poll, one change and one waiting device are measured (`benchmarks/README.md`, "On the wire", "Answering
HTTP" and "How a state repo grows"). `benchmarks/budget.py` compares the sums with a real server.

BUDGET-1  A device polls once in an interval; where the server lets polls wait, once in a wait. A change is one more.
BUDGET-2  A poll is on a kept connection while the interval is not longer than the server keeps one, or on a new one.
BUDGET-3  The bytes are those of `serve` with TLS 1.3 and one certificate. Another server may send more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import select, targets
from margo_gitops.values import dataclass
from margo_gitops.wording import byte_count, counted, table_lines

Way = Literal["git", "http", "wait"]
DAY: Final = 86_400
MONTH: Final = 30 * DAY


@dataclass(frozen=True, slots=True)
class _WayCost:
    """What is measured of a way.

    Attributes:
        kept, new: bytes of a poll, both ways, on a kept and on a new connection; TLS, TCP and IP included.
        change: bytes of a change of one line, with its reports.
        poll_ms: processor time of the server for a poll, in milliseconds.
        change_ms: the same for a change.
    """

    kept: int
    new: int
    change: int
    poll_ms: float
    change_ms: float


COSTS: Final[dict[Way, _WayCost]] = {
    "git": _WayCost(kept=950, new=2_900, change=2_100, poll_ms=0.5, change_ms=2.0),
    "http": _WayCost(kept=730, new=2_700, change=3_900, poll_ms=0.4, change_ms=2.0),
    "wait": _WayCost(kept=780, new=2_700, change=3_900, poll_ms=0.5, change_ms=2.0),
}
KEPT_CONNECTION_SECONDS: Final = 120
SERVER_BYTES: Final = 60 << 20
WAITING_BYTES: Final = 58 << 10
"""Of the server, for each poll that waits: 14 KiB, 5 for its state in the cache, 39 for a TLS connection."""
FIRST_RENDER_BYTES: Final = 2_400
"""Of the state repo, for each device with two deployments."""
EDIT_BYTES: Final = 2_900
SITE_BYTES: Final = 23
"""Of the state repo, for each edit that is rendered: as it is, and for each site in the fleet's tree."""
CHANGED_DEVICE_BYTES: Final = 1_600
"""Of the state repo, for each device that it changes; less after packs are merged."""
PEAK: Final = 4.0
"""The busiest second is so many deviations above the mean, also after an outage: polls are independent."""


@dataclass(frozen=True, slots=True)
class HostLimit:
    """What a git host recommends or enforces for one repository.

    Attributes:
        reads: git operations of all clients in a second.
        branches, size: how many branches, and bytes on disk; None: it names no number.
    """

    name: str
    reads: float
    branches: int | None
    size: int | None


HOSTS: Final = (
    # https://docs.github.com/en/repositories/creating-and-managing-repositories/repository-limits
    HostLimit("GitHub", reads=15.0, branches=5_000, size=10 << 30),
    # https://docs.gitlab.com/security/rate_limits/: 600 operations by SSH in a minute, for a user and a project
    HostLimit("GitLab by SSH", reads=10.0, branches=None, size=None),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A fleet, and how its devices get their state."""

    devices: Annotated[int, About("How many devices.")]
    sites: Annotated[int, About("How many sites.")]
    deployments: Annotated[int, About("Deployments of all devices together.")]
    way: Annotated[Way, About("`git`, `http`, or `wait`: by HTTP with polls that wait for a change.")]
    interval: Annotated[int, About("Seconds between two polls; for `wait`, how long a poll waits.")]
    edits: Annotated[float, About("Edits of the fleet repo that are rendered in a day.")]
    changed: Annotated[int, About("Devices that an edit changes.")]


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """Whether a git host carries the layout, by the numbers that it publishes."""

    host: Annotated[str, About("Its name.")]
    fits: Annotated[bool, About("Whether all of its numbers are kept.")]
    why: Annotated[tuple[str, ...], About("What exceeds a number, and what would fit.")]


@dataclass(frozen=True, slots=True)
class Budget(OwnKind):
    """What a fleet costs."""

    layout: Layout
    requests_per_second: Annotated[float, About("Polls of all devices in a second, on average, changes included.")]
    peak_requests_per_second: Annotated[float, About("The most in a second, also after an outage.")]
    device_bytes_per_month: Annotated[float, About("Both ways, TLS, TCP and IP included, for 30 days.")]
    fleet_bytes_per_month: Annotated[float, About("The same for all devices.")]
    converged_seconds: Annotated[float, About("Until all devices that are on have an edit of the whole fleet.")]
    server_cores: Annotated[float, About("Processor cores that `serve` is busy with, on average.")]
    server_bytes: Annotated[float, About("Memory of `serve`.")]
    state_bytes_per_year: Annotated[float, About("What the state repo grows by in 365 days, before packs are merged.")]
    hosts: Annotated[tuple[HostVerdict, ...], About("Git hosts; empty for ways that are not git.")]


def layout_of(intent: Intent, *, way: Way, interval: int, edits: float, changed: int | None) -> Layout:
    """Return the layout of a fleet repo.

    Args:
        changed: devices that an edit changes; None: those of a site, on average.
    """
    fleet = targets(intent)
    placed = sum(len(list(select(each.value.spec.placement, fleet))) for each in intent.deployments.values())
    sites = len({each.site for each in fleet.values()})
    usual = max(1, round(len(fleet) / max(1, sites)))
    return Layout(len(fleet), sites, placed, way, interval, edits, min(changed or usual, len(fleet)))


def budget(layout: Layout) -> Budget:
    """Return what a layout costs."""
    cost = COSTS[layout.way]
    polls = layout.devices / layout.interval
    changes = layout.edits * layout.changed / DAY
    kept = layout.way == "wait" or layout.interval <= KEPT_CONNECTION_SECONDS
    poll_bytes = cost.kept if kept else cost.new
    fleet_bytes = (polls * poll_bytes + changes * cost.change) * MONTH
    growth = layout.edits * 365 * (EDIT_BYTES + SITE_BYTES * layout.sites + CHANGED_DEVICE_BYTES * layout.changed)
    busy = polls * cost.poll_ms + changes * cost.change_ms
    return Budget(
        layout=layout,
        requests_per_second=polls + changes,
        peak_requests_per_second=polls + changes + PEAK * math.sqrt(polls + changes),
        device_bytes_per_month=fleet_bytes / max(1, layout.devices),
        fleet_bytes_per_month=fleet_bytes,
        converged_seconds=_converged(layout, cost),
        server_cores=busy / 1_000,
        server_bytes=SERVER_BYTES + (layout.devices * WAITING_BYTES if layout.way == "wait" else 0),
        state_bytes_per_year=growth,
        hosts=tuple(_verdict(layout, polls + changes, growth, host) for host in HOSTS) if layout.way == "git" else (),
    )


def _converged(layout: Layout, cost: _WayCost) -> float:
    answered = layout.devices * cost.change_ms / 1_000
    # Jitter is a tenth of the interval (docs/agent.md, poll).
    return answered if layout.way == "wait" else max(layout.interval * 1.1, answered)


def _verdict(layout: Layout, requests: float, growth: float, host: HostLimit) -> HostVerdict:
    why = []
    if requests > host.reads:
        longest = layout.devices / max(host.reads - (requests - layout.devices / layout.interval), 0.01)
        why.append(
            f"{requests:,.1f} requests a second, {host.reads:g} are allowed: poll every {_span(longest)} or more, "
            "or let devices ask `serve` or files of `publish`"
        )
    if host.branches is not None and layout.devices + 1 > host.branches:
        why.append(f"{layout.devices + 1:,} branches, {host.branches:,} are recommended")
    if why:
        most = min(host.reads / requests * layout.devices, (host.branches or math.inf) - 1)
        why.append(f"{math.ceil(layout.devices / most):,} shards would fit (docs/shards.md)")
    size = layout.devices * FIRST_RENDER_BYTES + growth
    if host.size is not None and size > host.size:
        why.append(f"{byte_count(round(size))} after a year, {byte_count(host.size)} are recommended")
    return HostVerdict(host.name, not why, tuple(why))


def budget_lines(found: Budget) -> Iterator[str]:
    """Yield the budget for people."""
    layout = found.layout
    every = (
        f"polls that wait {_span(layout.interval)}"
        if layout.way == "wait"
        else f"{layout.way} every {_span(layout.interval)}"
    )
    yield (
        f"{counted(layout.devices, 'device')} at {counted(layout.sites, 'site')}, "
        f"{counted(layout.deployments, 'deployment')}; {every}; "
        f"{layout.edits:g} edits a day that change {counted(layout.changed, 'device')} each"
    )
    yield ""
    yield from table_lines(
        [
            (
                "requests",
                f"{found.requests_per_second:,.1f} a second",
                f"at most {found.peak_requests_per_second:,.1f} after an outage",
            ),
            (
                "bytes of a device",
                f"{byte_count(round(found.device_bytes_per_month))} a month",
                "TLS, TCP and IP included",
            ),
            ("bytes of all devices", f"{byte_count(round(found.fleet_bytes_per_month))} a month", ""),
            ("all devices have an edit after", _span(found.converged_seconds), "those that are on"),
            ("processor of serve", f"{found.server_cores * 100:,.1f} % of a core", ""),
            ("memory of serve", byte_count(round(found.server_bytes)), ""),
            (
                "growth of the state repo",
                f"{byte_count(round(found.state_bytes_per_year))} a year",
                "before packs are merged",
            ),
        ]
    )
    for verdict in found.hosts:
        yield f"{verdict.host}: {'fits' if verdict.fits else 'does not fit'}"
        yield from (f"  {reason}" for reason in verdict.why)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7_200 else f"{seconds / 3_600:,.1f} h"

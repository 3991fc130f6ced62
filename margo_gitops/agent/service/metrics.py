"""What the agent counts, as Prometheus text (format 0.0.4).

METRICS-1  Counters count from the start of the process. `agent once` is a process for each poll, so it shows none.
METRICS-2  A sum over a few known states has them all, also those of 0; what has a code is there once it was seen.
METRICS-3  What the journal cannot say now is as it was before.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from margo_gitops import __version__
from margo_gitops.agent.apply.steps import Plan
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.recorded import recorded_number
from margo_gitops.documents.status import SEVERITY, State, most_severe
from margo_gitops.errors import ChangeWaits, MargoGitopsError
from margo_gitops.values import dataclass, field
from margo_gitops.web.metering import Cost

PREFIX: Final = "margo_gitops_agent_"
MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_POLL_RESULTS: Final = ("new", "unchanged", "failed", "refused")
_PASSING: Final = re.compile(rf"^{PREFIX}\w+(?:_total|_timestamp_seconds)\b.*\n", re.MULTILINE)

_Kind: TypeAlias = Literal["counter", "gauge"]
_Samples: TypeAlias = Iterable[tuple[Mapping[str, str], float]]


@dataclass(eq=False)
class Metrics:
    """Counts what happens, for one device.

    Attributes:
        clock: the time, seconds since the epoch.
        counters: whether counters are shown (METRICS-1).
    """

    clock: Callable[[], float]
    counters: bool = True
    _polls: Counter[str] = field(default_factory=Counter, init=False)
    _failures: Counter[str] = field(default_factory=Counter, init=False)
    _events: Counter[str] = field(default_factory=Counter, init=False)
    _polled: float | None = field(default=None, init=False)
    _answered: float | None = field(default=None, init=False)
    _outcome: Outcome | None = field(default=None, init=False)
    _states: dict[tuple[str, str], State] = field(default_factory=dict, init=False)

    _unsent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def recall(self, facts: Mapping[str, str]) -> None:
        """Take the times of the last polls from the journal: a restart while the source is away forgets no outage."""
        self._polled = recorded_number(facts.get("poll.at"))
        self._answered = recorded_number(facts.get("poll.answered_at"))

    def noted(self, event: Event) -> None:
        """Count an event."""
        self._events[event.reason.value] += 1

    def ended(self, outcome: Outcome, journal: Journal) -> None:
        """Count a cycle, and read from the journal what it left."""
        if outcome.poll != "none":
            self._polls[outcome.poll] += 1
            self._polled = self.clock()
            if outcome.answered:
                self._answered = self._polled
            if outcome.poll_error is not None:
                self._failures[outcome.poll_error.code] += 1
        self._outcome = outcome
        with contextlib.suppress(MargoGitopsError):
            states: dict[str, list[State]] = {}
            for workload in journal.workloads():
                states.setdefault(workload.key.deployment_id, []).append(workload.state)
            self._states = {
                (item.name, item.id): most_severe(states.get(item.id, ())) for item in journal.deployments()
            }
            self._unsent = len(journal.unsent())

    def text(self, cost: Cost) -> str:
        """Return everything as text; `cost` is what the source has cost since the start."""
        shown = (family for family in self._families(cost) if self.counters or family[1] == "gauge")
        return "".join(line for name, kind, about, samples in shown for line in _lines(name, kind, about, samples))

    def _families(self, cost: Cost) -> Iterator[tuple[str, _Kind, str, _Samples]]:
        outcome = self._outcome
        yield "build_info", "gauge", "Version of the agent.", [({"version": __version__}, 1)]
        yield "start_time_seconds", "gauge", "When the agent started.", _one(self._started)
        yield "last_poll_timestamp_seconds", "gauge", "When the last poll ended, with any result.", _one(self._polled)
        about = "When the source last answered."
        yield "last_answered_poll_timestamp_seconds", "gauge", about, _one(self._answered)
        results = [({"result": result}, self._polls[result]) for result in _POLL_RESULTS]
        yield "polls_total", "counter", "Polls by result; refused: the state broke a rule of trust.", results
        about = "Polls that brought no state, by the code of the error."
        yield "poll_failures_total", "counter", about, _by("code", self._failures)
        yield "requests_total", "counter", "Requests to the source.", _one(cost.requests)
        yield "sent_bytes_total", "counter", "Bytes sent to the source.", _one(cost.bytes_up)
        yield "received_bytes_total", "counter", "Bytes received from the source.", _one(cost.bytes_down)
        about = "Manifest version that the device holds, verified; 0: none."
        yield "held_manifest_version", "gauge", about, _one((outcome.version if outcome else None) or 0)
        counts = Counter(self._states.values())
        yield "deployments", "gauge", "Deployments by Margo's state.", _by("state", {s: counts[s] for s in SEVERITY})
        about = "The state that each deployment has."
        states = [
            ({"deployment": name, "id": identity, "state": state}, 1)
            for (name, identity), state in sorted(self._states.items())
        ]
        yield "deployment_state", "gauge", about, states
        done = outcome.reconciliation if outcome else None
        failures = Counter(error.code for error in done.failures) if done else {}
        yield "obstacles", "gauge", "What the last cycle could not do, by the code of the error.", _by("code", failures)
        waits = Counter(reason.code for reason in _waits(done.plan)) if done else {}
        about = "Components that wait for when they may change, by the code of the reason."
        yield "waiting_changes", "gauge", about, _by("code", waits)
        complete = int(done.complete) if done else 0
        yield "complete", "gauge", "1: the device runs all that its state asks for.", _one(complete)
        about = "1: the device may not poll now, by its polling hours or in a downtime."
        yield "quiet", "gauge", about, _one(int(outcome.quiet) if outcome else 0)
        about = "Statuses that wait until the server takes them."
        yield "unsent_statuses", "gauge", about, _one(self._unsent)
        yield "events_total", "counter", "Events by reason, as in the log.", _by("reason", self._events)


def lasting(text: str) -> str:
    """Return metrics without what changes with each poll: counters and times."""
    return _PASSING.sub("", text)


def _waits(plan: Plan) -> Iterator[ChangeWaits]:
    reasons = [*(change.waits for change in plan.changes), *(removal.waits for removal in plan.removals)]
    return (reason for reason in reasons if reason is not None)


def _one(value: float | None) -> _Samples:
    return [] if value is None else [({}, value)]


def _by(label: str, counts: Mapping[str, float]) -> _Samples:
    return [({label: name}, count) for name, count in sorted(counts.items())]


def _lines(name: str, kind: _Kind, about: str, samples: _Samples) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {about}\n# TYPE {PREFIX}{name} {kind}\n"
    for labels, value in samples:
        given = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = str(value) if isinstance(value, int) else f"{value:.3f}"
        yield f"{PREFIX}{name}{{{given}}} {number}\n" if given else f"{PREFIX}{name} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

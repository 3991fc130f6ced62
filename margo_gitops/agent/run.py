"""Run the agent: one cycle for a person or a timer, or as a service until it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from margo_gitops import __version__
from margo_gitops.agent.agent import working_agent
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, LogFormat, Reason, Record
from margo_gitops.agent.memory.poll_record import note_poll, note_start
from margo_gitops.agent.service.loop import Interruptions, Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.errors import AgentMisconfigured, MargoGitopsError
from margo_gitops.settings import spell_duration

if TYPE_CHECKING:
    from margo_gitops.agent.service.health import HealthWatch


def run_once(
    configuration: AgentConfiguration, log_format: LogFormat, *, retry: bool = False, at_once: bool = False
) -> Outcome:
    """Poll once, apply, report, and return how it went.

    Args:
        retry: whether to try quarantined updates again.
        at_once: whether to change what waits for a maintenance window, too.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: nothing could be done; the error says why.
    """
    watch = _watch(configuration, counters=False)
    with (
        Interruptions() as interruptions,
        working_agent(configuration, log_format, interruptions, watch=watch) as parts,
    ):
        outcome = parts.cycle.run(retry=retry, at_once=at_once)
        if not outcome.quiet and (outcome.answered or configuration.reports):
            parts.report()
        if watch is not None:
            watch.ended(outcome)
        return outcome


def run_service(configuration: AgentConfiguration, log_format: LogFormat) -> None:
    """Poll, apply and report until SIGTERM or SIGINT.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: the agent could not start; the error says why.
    """
    manager = ServiceManager(os.environ)
    watch = _watch(configuration, counters=True)

    def alive() -> None:
        manager.alive()
        if watch is not None:
            watch.alive()

    with (
        Interruptions() as interruptions,
        working_agent(
            configuration, log_format, interruptions, heartbeat=alive, interrupted=interruptions.called, watch=watch
        ) as parts,
        _listening(configuration, watch, parts.record),
    ):
        parts.record(_started(configuration, parts.cycle))
        Service(
            cycles=parts.cycle,
            report=parts.report,
            always_report=configuration.reports is not None,
            schedule=Schedule(configuration.device, configuration.poll.interval, configuration.jitter),
            waiting=interruptions,
            manager=manager,
            record=parts.record,
            clock=time.time,
            timer=time.monotonic,
            longest_wait=configuration.source.http.wait if configuration.source.http else 0,
            watch=watch,
            wakes=parts.wakes,
            polls_first=note_start(parts.journal),
            polled=lambda: note_poll(parts.journal),
        ).run()


def _watch(configuration: AgentConfiguration, *, counters: bool) -> HealthWatch | None:
    """Return what health and metrics come from; None where the configuration asks for neither."""
    if configuration.health is None:
        return None
    from margo_gitops.agent.service.health import HealthWatch

    return HealthWatch.of(configuration, time.time, counters=counters)


@contextlib.contextmanager
def _listening(configuration: AgentConfiguration, watch: HealthWatch | None, record: Record) -> Iterator[None]:
    """Answer about health while the context lasts; an event says if that is not possible (HEALTH-6)."""
    with contextlib.ExitStack() as ending:
        if watch is not None and configuration.health is not None and configuration.health.listen is not None:
            from margo_gitops.agent.service.health import listening

            try:
                ending.enter_context(listening(configuration.health.listen, watch))
            except AgentMisconfigured as error:
                record(Event.of(Reason.HEALTH_UNSAID, error))
        yield


def _started(configuration: AgentConfiguration, cycle: Cycle) -> Event:
    """Return what the agent is, for a person who reads the log: version, device, source, interval, held state."""
    try:
        state = cycle.held()
        held = state.title if state is not None else "nothing yet"
    except MargoGitopsError as error:
        held = f"a state that is not trusted now ({error.code})"
    every = spell_duration(configuration.poll.interval)
    text = f"margo-gitops {__version__} for {configuration.device} polls {configuration.source.place} every {every}"
    return Event(Reason.STARTED, f"{text}; it holds {held}")

"""The agent, put together from its configuration: what `margo-gitops agent` runs on a device."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.eligibility import read_eligibility
from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.apply.workloads import DeviceLimits
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, EventLog, LogFormat, Reason, Record
from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.state_folder import lock_folder, make_folder
from margo_gitops.agent.pull.held import floor_files, freshness_keeper, read_policy, trusted_store
from margo_gitops.agent.service.loop import Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.agent.service.signals import Interruptions
from margo_gitops.agent.settings.loading import LoadedConfiguration
from margo_gitops.appliers.applier import Applier
from margo_gitops.appliers.registry import create_applier
from margo_gitops.errors import MargoGitopsError
from margo_gitops.transport.git.git_transport import GitTransport

if TYPE_CHECKING:
    from margo_gitops.transport.http.http_transport import HttpTransport

LOCK_FILE: Final = "lock"
APPLIERS_FOLDER: Final = "appliers"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a working agent consists of, while it holds the lock.

    Attributes:
        cycle: does one cycle.
        report: tells the server what it does not know yet; nothing where the source takes no reports.
        journal: what the device did.
        record: keeps events.
    """

    cycle: Cycle
    report: Callable[[], None]
    journal: Journal
    record: Record


def run_once(configuration: LoadedConfiguration, log_format: LogFormat, *, retry: bool = False) -> Outcome:
    """Poll once, apply, report, and return how it went.

    Args:
        configuration: the agent's.
        log_format: of standard error.
        retry: whether to try quarantined updates again.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: nothing could be done; the error says why.
    """
    with Interruptions() as interruptions, working_agent(configuration, log_format, interruptions) as parts:
        outcome = parts.cycle.run(retry=retry)
        if outcome.answered:
            parts.report()
        return outcome


def run_service(configuration: LoadedConfiguration, log_format: LogFormat) -> None:
    """Poll, apply and report until SIGTERM or SIGINT.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: the agent could not start; the error says why.
    """
    manager = ServiceManager(os.environ)
    with (
        Interruptions() as interruptions,
        working_agent(
            configuration, log_format, interruptions, heartbeat=manager.alive, interrupted=interruptions.called
        ) as parts,
    ):
        Service(
            cycles=parts.cycle,
            report=parts.report,
            schedule=Schedule(configuration.device, configuration.interval, configuration.jitter),
            waiting=interruptions,
            manager=manager,
            record=parts.record,
            clock=time.time,
            timer=time.monotonic,
            longest_wait=configuration.wait,
        ).run()


@contextlib.contextmanager
def working_agent(
    configuration: LoadedConfiguration,
    log_format: LogFormat,
    interruptions: Interruptions,
    clock: Clock = time.time,
    heartbeat: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] | None = None,
) -> Iterator[Parts]:
    """Hold the state folder's lock, and an agent ready to do cycles, while the context lasts.

    Args:
        configuration: the agent's.
        log_format: of standard error.
        interruptions: signals.
        clock: the time, seconds since the epoch.
        heartbeat: called before each step of a component.
        interrupted: whether to leave what is still to be done; asked between steps and by steps that wait. By default,
            whether a signal to stop came.

    Raises:
        AgentBusy: another agent works with this state folder.
        AgentMisconfigured: a file that the configuration names cannot be read.
        SourceMisconfigured: the settings of the source cannot work.
        ApplierUnusable: an applier is not installed, or its settings cannot work.
        StateFolderUnusable: the state folder cannot be used.
    """
    http = _http_transport(configuration)
    transport = http or GitTransport(configuration.git_source())
    limits = DeviceLimits(
        read_eligibility(configuration.device, configuration.capabilities_files), configuration.longest_timeout
    )
    interrupted = interrupted or interruptions.stopping
    log = EventLog(log_format, clock)
    with lock_folder(configuration.state_folder / LOCK_FILE), contextlib.closing(transport):
        store = trusted_store(configuration)
        store.clean()
        with (
            Journal.open(configuration.state_folder / JOURNAL_FILE, clock()) as journal,
            contextlib.closing(PollRecord(journal, clock)) as polls,
        ):
            record = _recorder(journal, log, clock)
            if journal.set_aside:
                record(Event(Reason.JOURNAL_REBUILT, f"the journal could not be used and lies at {journal.set_aside}"))
            reconciler = Reconciler(
                create_appliers(configuration, interrupted),
                journal,
                record,
                clock,
                interrupted,
                limits=limits,
                heartbeat=heartbeat,
            )
            cycle = Cycle(
                policy=lambda: read_policy(configuration),
                fallback=read_policy(configuration, signed=False),
                transport=transport,
                store=store,
                floors=floor_files(configuration),
                polls=polls,
                reconciler=reconciler,
                record=record,
                freshness=freshness_keeper(configuration, record, clock, transport, interruptions.abortable),
                abortable=interruptions.abortable,
            )
            yield Parts(cycle, _reporter(http, configuration, journal, record, interruptions), journal, record)


def _http_transport(configuration: LoadedConfiguration) -> HttpTransport | None:
    """Return the transport of an HTTP source, nothing opened yet; None where the source is another.

    Raises:
        SourceMisconfigured: its settings cannot work.
    """
    if configuration.content.source.http is None:
        return None
    # A device with another source does not load what speaks HTTP.
    from margo_gitops.transport.http.http_transport import HttpTransport

    return HttpTransport(configuration.http_source())


def _reporter(
    transport: HttpTransport | None,
    configuration: LoadedConfiguration,
    journal: Journal,
    record: Record,
    interruptions: Interruptions,
) -> Callable[[], None]:
    """Return what sends reports to the server; what does nothing where the source is none."""
    if transport is None:
        return lambda: None
    from margo_gitops.agent.report.reporter import Reporter

    return Reporter(
        transport=transport,
        device=configuration.device,
        capabilities=configuration.capabilities_files,
        statuses=configuration.reports_status,
        journal=journal,
        record=record,
        timer=time.monotonic,
        abortable=interruptions.abortable,
    ).send


def create_appliers(configuration: LoadedConfiguration, interrupted: Callable[[], bool]) -> Mapping[str, Applier]:
    """Return the configured appliers by name, in the configuration's order.

    Args:
        configuration: the agent's.
        interrupted: whether the agent was asked to stop.

    Raises:
        ApplierUnusable: one is not installed, or its settings cannot work.
    """
    appliers = {}
    for name in configuration.content.appliers:
        folder = configuration.state_folder / APPLIERS_FOLDER / name
        make_folder(folder)
        appliers[name] = create_applier(name, configuration.applier_context(name, folder, interrupted))
    return appliers


def _recorder(journal: Journal, log: EventLog, clock: Clock) -> Record:
    def record(event: Event) -> None:
        log.write(event)
        try:
            journal.note(event, clock())
        except MargoGitopsError as error:
            # An event that cannot be kept was told at least; what it is about goes on.
            log.write(Event.of(Reason.STORAGE_FAILED, error))

    return record

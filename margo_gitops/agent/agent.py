"""The agent, put together from its configuration: what `margo-gitops agent` runs on a device."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.eligibility import read_eligibility
from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.apply.workloads import DeviceLimits
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, EventLog, LogFormat, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.state_folder import lock_folder, make_folder
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper, FreshnessRules, ProofStore
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.agent.service.loop import Cycles, Service, ServiceManager
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.agent.service.signals import Interruptions
from margo_gitops.agent.settings.loading import LoadedConfiguration
from margo_gitops.appliers.applier import Applier
from margo_gitops.appliers.registry import create_applier
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.state_layout import FRESHNESS_FILE
from margo_gitops.errors import AgentMisconfigured, MargoGitopsError
from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.transport import Answer, PollHints, ProofSource
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, parse_allowed_signers
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustPolicy
from margo_gitops.web.metering import Cost

if TYPE_CHECKING:
    from margo_gitops.transport.http.http_transport import HttpTransport

JOURNAL_FILE: Final = "journal.sqlite3"
FLOOR_FILE: Final = "floor.json"
LOCK_FILE: Final = "lock"
STORE_FOLDER: Final = "trusted"
APPLIERS_FOLDER: Final = "appliers"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a working agent consists of, while it holds the lock."""

    cycle: Cycles
    transport: AgentTransport
    journal: Journal
    record: Record


def run_once(configuration: LoadedConfiguration, log_format: LogFormat, *, retry: bool = False) -> Outcome:
    """Poll once, apply, and return how it went.

    Args:
        configuration: the agent's.
        log_format: of standard error.
        retry: whether to try quarantined updates again.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: nothing could be done; the error says why.
    """
    with Interruptions() as interruptions, working_agent(configuration, log_format, interruptions) as parts:
        return parts.cycle.run(retry=retry)


def run_service(configuration: LoadedConfiguration, log_format: LogFormat) -> None:
    """Poll and apply until SIGTERM or SIGINT.

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
        schedule = Schedule(configuration.device, configuration.interval, configuration.jitter)
        # A wait gives no signs of life, and jitter may double it.
        longest = min(configuration.wait, (manager.heartbeat or float("inf")) / 2)
        parts.transport.patience = lambda: schedule.patience(time.time(), longest)
        Service(
            cycles=parts.cycle,
            schedule=schedule,
            waiting=interruptions,
            manager=manager,
            record=parts.record,
            clock=time.time,
            timer=time.monotonic,
            hints=lambda: parts.transport.hints,
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
    http = create_http_transport(configuration)
    transport = AgentTransport(http or GitTransport(configuration.git_source()), interruptions)
    limits = DeviceLimits(
        read_eligibility(configuration.device, configuration.capabilities_files), configuration.longest_timeout
    )
    interrupted = interrupted or interruptions.stopping
    folder = configuration.state_folder
    log = EventLog(log_format, clock)
    with lock_folder(folder / LOCK_FILE), contextlib.closing(transport):
        store = TrustedStore(folder / STORE_FOLDER)
        store.clean()
        with Journal.open(folder / JOURNAL_FILE, clock()) as journal:
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
            with contextlib.closing(PollRecord(journal, clock)) as polls:
                transport.polls = polls
                cycle: Cycles = Cycle(
                    policy=lambda: read_policy(configuration),
                    fallback=read_policy(configuration, signed=False),
                    transport=transport,
                    store=store,
                    floors=floor_files(configuration),
                    polls=polls,
                    reconciler=reconciler,
                    record=record,
                    freshness=freshness_keeper(configuration, record, clock, transport),
                )
                if http is not None:
                    cycle = _reporting(cycle, http, configuration, journal, record, interruptions)
                yield Parts(cycle, transport, journal, record)


def create_http_transport(configuration: LoadedConfiguration) -> HttpTransport | None:
    """Return the transport of an HTTP source, nothing opened yet; None where the source is another.

    Raises:
        SourceMisconfigured: its settings cannot work.
    """
    if configuration.content.source.http is None:
        return None
    # A device with another source does not load what speaks HTTP.
    from margo_gitops.transport.http.http_transport import HttpTransport

    return HttpTransport(configuration.http_source())


def _reporting(
    cycles: Cycles,
    transport: HttpTransport,
    configuration: LoadedConfiguration,
    journal: Journal,
    record: Record,
    interruptions: Interruptions,
) -> Cycles:
    """Return the cycles, each followed by reports to the server."""
    from margo_gitops.agent.report.reporter import Reporter, ReportingCycles

    reporter = Reporter(
        transport=transport,
        device=configuration.device,
        capabilities=configuration.capabilities_files,
        statuses=configuration.reports_status,
        journal=journal,
        record=record,
        timer=time.monotonic,
        abortable=interruptions.abortable,
    )
    return ReportingCycles(cycles, reporter)


def floor_files(configuration: LoadedConfiguration) -> FloorFiles:
    """Return the places of the trust floor."""
    return FloorFiles(configuration.device, configuration.state_folder / FLOOR_FILE, configuration.floor_copy)


def freshness_keeper(
    configuration: LoadedConfiguration, record: Record, clock: Clock = time.time, source: ProofSource | None = None
) -> FreshnessKeeper | None:
    """Return what keeps the device's proof of freshness; None where its configuration wants none.

    Args:
        configuration: the agent's.
        record: keeps events.
        clock: the time, seconds since the epoch.
        source: where proofs come from; None: nowhere but by hand.
    """
    settings, path = configuration.content.freshness, configuration.statement_signers
    if settings is None or path is None:
        return None
    copy = configuration.floor_copy
    parsed = functools.lru_cache(maxsize=1)(parse_allowed_signers)  # asked several times in a cycle
    return FreshnessKeeper(
        FreshnessRules(configuration.device, settings.required, settings.on_expiry == "hold"),
        ProofStore(
            configuration.state_folder / FRESHNESS_FILE,
            copy.with_name(f"{copy.name}.{FRESHNESS_FILE}") if copy else None,
        ),
        lambda: parsed(_read_list(path), str(path)),
        record,
        clock,
        source,
    )


def read_policy(configuration: LoadedConfiguration, *, signed: bool = True) -> TrustPolicy:
    """Return what the device demands of its state, with the list of signers as it is now.

    Args:
        configuration: the agent's.
        signed: whether to demand a signature where the configuration does; without, no list is read.

    Raises:
        AgentMisconfigured: the list cannot be read.
        AllowedSignersInvalid: the list has mistakes.
    """
    trust = configuration.content.trust
    signers = None
    if signed and trust.allowed_signers is not None:
        path = configuration.path(trust.allowed_signers)
        signers = parse_allowed_signers(_read_list(path), str(path))
    return TrustPolicy(configuration.device, signers, minimum_version=trust.minimum_version)


def _read_list(path: Path) -> bytes:
    return read_small_file(
        path,
        MAX_LIST_BYTES,
        what="the list of allowed signers cannot be read",
        error=AgentMisconfigured,
        remedy="put the renderer's public key there, or correct trust.allowedSigners",
    )


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


class AgentTransport:
    """A transport whose pulls a signal to stop may cut off, and that tells what each cost.

    Attributes:
        polls: who is told; None is nobody.
        patience: says how many seconds the next pull may wait for a change.
        hints: what the source said at the last pull about the next one.
    """

    def __init__(self, transport: GitTransport | HttpTransport, interruptions: Interruptions) -> None:
        """Take the parts.

        Args:
            transport: what pulls.
            interruptions: signals.
        """
        self._transport = transport
        self._interruptions = interruptions
        self.polls: PollRecord | None = None
        self.patience: Callable[[], int] = int
        self.hints = PollHints()

    @property
    def cost(self) -> Cost:
        """What the transport has used so far."""
        return self._transport.cost

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return what the transport returns.

        Raises:
            TransportError: as the transport does.
        """
        before = self._transport.cost
        self.hints = PollHints()
        try:
            with self._interruptions.abortable():
                answer = self._transport.pull(held, patience or self.patience())
            self.hints = answer.hints
            return answer
        finally:
            if self.polls is not None:
                self.polls.spent(self._transport.cost - before)

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return what the transport returns.

        Raises:
            TransportError: as the transport does.
        """
        with self._interruptions.abortable():
            return self._transport.freshness(device, held)

    def close(self) -> None:
        """Close the kept connection."""
        self._transport.close()

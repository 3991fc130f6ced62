"""The agent, put together from its configuration: what `margo-gitops agent` runs on a device."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from margo_gitops.agent.configuration import LoadedConfiguration
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.durable import disk_errors, make_folder
from margo_gitops.agent.events import Event, Reason, Record
from margo_gitops.agent.floor_files import FloorFiles
from margo_gitops.agent.interruptions import Interruptions
from margo_gitops.agent.journal import Journal
from margo_gitops.agent.lock import AgentLock
from margo_gitops.agent.logs import EventLog, LogFormat
from margo_gitops.agent.notify import ServiceManager
from margo_gitops.agent.poll_record import PollRecord
from margo_gitops.agent.reconcile import Reconciler
from margo_gitops.agent.run import Service
from margo_gitops.agent.schedule import Schedule
from margo_gitops.agent.store import TrustedStore
from margo_gitops.appliers.applier import Applier
from margo_gitops.appliers.registry import create_applier
from margo_gitops.errors import AgentMisconfigured, Location, MargoGitopsError
from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.transport import Unchanged
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, parse_allowed_signers
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustPolicy

JOURNAL_FILE: Final = "journal.sqlite3"
FLOOR_FILE: Final = "floor.json"
LOCK_FILE: Final = "lock"
STORE_FOLDER: Final = "trusted"
APPLIERS_FOLDER: Final = "appliers"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a working agent consists of, while it holds the lock."""

    cycle: Cycle
    journal: Journal
    record: Record


def run_once(configuration: LoadedConfiguration, log_format: LogFormat) -> Outcome:
    """Poll once, apply, and return how it went.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: nothing could be done; the error says why.
    """
    with Interruptions() as interruptions, working_agent(configuration, log_format, interruptions) as parts:
        return parts.cycle.run()


def run_service(configuration: LoadedConfiguration, log_format: LogFormat) -> None:
    """Poll and apply until SIGTERM or SIGINT.

    Raises:
        AgentBusy: another agent works with this state folder.
        MargoGitopsError: the agent could not start; the error says why.
    """
    with Interruptions() as interruptions, working_agent(configuration, log_format, interruptions) as parts:
        Service(
            cycles=parts.cycle,
            schedule=Schedule(configuration.device, configuration.interval, configuration.jitter),
            waiting=interruptions,
            manager=ServiceManager(os.environ),
            record=parts.record,
            clock=time.time,
            timer=time.monotonic,
        ).run()


@contextlib.contextmanager
def working_agent(
    configuration: LoadedConfiguration, log_format: LogFormat, interruptions: Interruptions, clock: Clock = time.time
) -> Iterator[Parts]:
    """Hold the state folder's lock, and an agent ready to do cycles, while the context lasts.

    Raises:
        AgentBusy: another agent works with this state folder.
        AgentMisconfigured: a file that the configuration names cannot be read.
        SourceMisconfigured: the settings of the source cannot work.
        ApplierUnusable: an applier is not installed, or its settings cannot work.
        StateFolderUnusable: the state folder cannot be used.
    """
    transport = AgentTransport(GitTransport(configuration.git_source()), interruptions)
    read_policy(configuration)  # a list of signers that cannot be read is told at once, not at the first poll
    folder = configuration.state_folder
    log = EventLog(log_format, clock)
    with AgentLock(folder / LOCK_FILE), contextlib.closing(transport):
        store = TrustedStore(folder / STORE_FOLDER)
        store.clean()
        with Journal.open(folder / JOURNAL_FILE, clock()) as journal:
            record = _recorder(journal, log, clock)
            if journal.set_aside:
                record(Event(Reason.JOURNAL_REBUILT, f"the journal could not be used and lies at {journal.set_aside}"))
            reconciler = Reconciler(create_appliers(configuration), journal, record, clock, interruptions.stopping)
            with contextlib.closing(PollRecord(journal, clock)) as polls:
                transport.polls = polls
                cycle = Cycle(
                    policy=lambda: read_policy(configuration),
                    transport=transport,
                    store=store,
                    floors=floor_files(configuration),
                    polls=polls,
                    reconciler=reconciler,
                    record=record,
                )
                yield Parts(cycle, journal, record)


def floor_files(configuration: LoadedConfiguration) -> FloorFiles:
    """Return the places of the trust floor."""
    return FloorFiles(configuration.device, configuration.state_folder / FLOOR_FILE, configuration.floor_copy)


def read_policy(configuration: LoadedConfiguration) -> TrustPolicy:
    """Return what the device demands of its state, with the list of signers as it is now.

    Raises:
        AgentMisconfigured: the list cannot be read.
        AllowedSignersInvalid: the list has mistakes.
    """
    trust = configuration.content.trust
    signers = None
    if trust.allowed_signers is not None:
        path = configuration.path(trust.allowed_signers)
        signers = parse_allowed_signers(_read_list(path), str(path))
    return TrustPolicy(configuration.device, signers, minimum_version=trust.minimum_version)


def _read_list(path: Path) -> bytes:
    try:
        with disk_errors(path), path.open("rb") as file:
            return file.read(MAX_LIST_BYTES + 1)
    except MargoGitopsError as error:
        raise AgentMisconfigured(
            f"the list of allowed signers cannot be read: {error.what.partition(': ')[2]}",
            where=Location(str(path)),
            remedy="put the renderer's public key there, or correct trust.allowedSigners",
        ) from error


def create_appliers(configuration: LoadedConfiguration) -> Mapping[str, Applier]:
    """Return the configured appliers by name, in the configuration's order.

    Raises:
        ApplierUnusable: one is not installed, or its settings cannot work.
    """
    appliers = {}
    for name in configuration.content.appliers:
        folder = configuration.state_folder / APPLIERS_FOLDER / name
        make_folder(folder)
        appliers[name] = create_applier(name, configuration.applier_context(name, folder))
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
    """A git transport whose pulls a signal to stop may cut off, and that tells what each cost.

    Attributes:
        polls: who is told; None is nobody.
    """

    def __init__(self, transport: GitTransport, interruptions: Interruptions) -> None:
        self._transport = transport
        self._interruptions = interruptions
        self.polls: PollRecord | None = None

    def pull(self, held: Snapshot | None) -> Snapshot | Unchanged:
        """Return what the transport returns.

        Raises:
            TransportError: as the transport does.
        """
        before = self._transport.cost
        try:
            with self._interruptions.abortable():
                return self._transport.pull(held)
        finally:
            if self.polls is not None:
                self.polls.spent(self._transport.cost - before)

    def close(self) -> None:
        """Close the kept connection."""
        self._transport.close()

"""The agent, put together from its configuration: what `margo-gitops agent` runs on a device."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.apply.artifacts import CONTENT_FOLDER, Artifacts
from margo_gitops.agent.apply.causes import Causes, free_bytes
from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.apply.switches import Switches
from margo_gitops.agent.apply.timetable import Timetable
from margo_gitops.agent.apply.workloads import DeviceLimits, read_eligibility, without_secrets
from margo_gitops.agent.cycle import Cycle
from margo_gitops.agent.memory.events import Event, EventLog, LogFormat, Reason, Record, read_by_journald, recorder
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.agent.memory.orders import APPLY_FILE, SUSPENDED_FILE, Orders
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.state_folder import clear_way, lock_folder, make_folder
from margo_gitops.agent.pull.device_clock import ClockMemory
from margo_gitops.agent.pull.held import (
    CLOCK_FILE,
    FLOOR_FILE,
    STORE_FOLDER,
    device_clock,
    floor_files,
    freshness_keeper,
    read_policy,
    trust_keeper,
    trusted_store,
)
from margo_gitops.agent.report import wiring
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.service.wakes import Wakes
from margo_gitops.agent.settings.configuration import (
    CAPABILITIES_FILE,
    CARRIED_NUMBER_FILE,
    MARK_KEY_FILE,
    RECEIPTS_FOLDER,
    AgentConfiguration,
)
from margo_gitops.appliers.applier import Applier, ApplierContext, Carried, no_secrets
from margo_gitops.appliers.registry import create_applier
from margo_gitops.documents.state_layout import FRESHNESS_FILE
from margo_gitops.values import dataclass

if TYPE_CHECKING:
    from margo_gitops.agent.apply.secrets import SecretSources
    from margo_gitops.agent.service.health import HealthWatch
    from margo_gitops.transport.git.git_transport import GitTransport
    from margo_gitops.transport.http.http_transport import HttpTransport
    from margo_gitops.transport.stick.stick_transport import StickTransport

LOCK_FILE: Final = "lock"
CLIENT_ID_FILE: Final = "client-id.json"
APPLIERS_FOLDER: Final = "appliers"
_FILES: Final = (
    *(LOCK_FILE, FLOOR_FILE, CLOCK_FILE, CLIENT_ID_FILE, wiring.REPORTS_CLIENT_ID_FILE, FRESHNESS_FILE),
    *(MARK_KEY_FILE, SUSPENDED_FILE, APPLY_FILE, CAPABILITIES_FILE, CARRIED_NUMBER_FILE),
)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a working agent consists of, while it holds the lock.

    Attributes:
        report: tells the server what it does not know yet; nothing where no server takes reports.
        wakes: hears what engines tell; connects when a service begins.
    """

    cycle: Cycle
    report: Callable[[], None]
    journal: Journal
    record: Record
    wakes: Wakes


@contextlib.contextmanager
def working_agent(
    configuration: AgentConfiguration,
    log_format: LogFormat,
    interruptions: Interruptions,
    clock: Clock = time.time,
    heartbeat: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] | None = None,
    watch: HealthWatch | None = None,
) -> Iterator[Parts]:
    """Hold the state folder's lock, and an agent ready to do cycles, while the context lasts.

    Args:
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
    transport = _transport(configuration)
    secrets = _secret_sources(configuration)
    limits = DeviceLimits(
        read_eligibility(configuration.device, configuration.capabilities),
        round(configuration.longest_timeout),
        secrets.digest if secrets else without_secrets,
        configuration.state_folder / CONTENT_FOLDER,
    )
    once = interrupted is None
    interrupted = interrupted or interruptions.stopping
    log = EventLog(log_format, clock, journald=read_by_journald(os.environ, sys.stderr))
    make_folder(configuration.state_folder)
    aside = clear_way(
        configuration.state_folder,
        files=_FILES,
        folders=(
            STORE_FOLDER,
            RECEIPTS_FOLDER,
            CONTENT_FOLDER,
            APPLIERS_FOLDER,
            *(f"{APPLIERS_FOLDER}/{name}" for name in configuration.appliers),
        ),
    )
    with (
        lock_folder(configuration.state_folder / LOCK_FILE),
        contextlib.closing(transport),
        contextlib.ExitStack() as ending,
    ):
        store = trusted_store(configuration)
        store.clean()
        with (
            Journal.open(configuration.state_folder / JOURNAL_FILE, clock()) as journal,
            contextlib.closing(PollRecord(journal, clock)) as polls,
        ):
            record = recorder(journal.note, log, clock, watch.metrics.noted if watch else _nothing)
            if watch is not None:
                watch.attach(journal, lambda: transport.cost, record)
            if journal.set_aside:
                record(Event(Reason.JOURNAL_REBUILT, f"the journal could not be used and is at {journal.set_aside}"))
            for place in aside:
                record(Event(Reason.STATE_DAMAGED, f"this was not what an agent wrote, and was set aside: {place}"))
            receipts = wiring.receipt_store(configuration)
            reporter = wiring.reporter_of(
                transport, configuration, journal, record, clock, interruptions.abortable, receipts
            )
            if reporter is not None:
                ending.callback(reporter.transport.close)
            time_here = device_clock(configuration, clock)
            trust = trust_keeper(configuration, record, time_here, transport, interruptions.abortable)
            known = ClockMemory(journal)
            timetable = Timetable(
                clock,
                lambda: time_here.floor,
                known.seen,
                known.keep,
                known.synchronized,
                trusts=configuration.clock == "trust",
            )
            appliers = create_appliers(configuration, interrupted, secrets)
            reconciler = Reconciler(
                appliers,
                journal,
                record,
                clock,
                interrupted,
                limits=limits,
                heartbeat=heartbeat,
                tell=lambda name, status: reporter.hear(name, status) if reporter and not cycle.quiet else None,
                timetable=timetable,
                causes=Causes(lambda: free_bytes(_written_folders(configuration, appliers))),
                switches=Switches(
                    clock,
                    Facts(journal.facts, journal.set_facts),
                    device=configuration.device,
                    doubt=timetable.doubt,
                    heartbeat=heartbeat,
                    lock_settings=configuration.locks,
                    hook_settings=configuration.hooks,
                    secrets=secrets.open if secrets else no_secrets,
                ),
                orders=Orders(configuration.state_folder, journal.facts, journal.set_facts, record, clock),
                artifacts=Artifacts.of(configuration, record, interrupted, heartbeat, once=once),
            )
            look, back = wiring.discovery_of(configuration, appliers, record, reconciler)
            cycle = Cycle(
                begin=look,
                policy=lambda: read_policy(configuration, trust),
                fallback=read_policy(configuration, signed=False),
                transport=transport,
                store=store,
                floors=floor_files(configuration),
                polls=polls,
                reconciler=reconciler,
                record=record,
                freshness=freshness_keeper(configuration, record, time_here, transport, interruptions.abortable, trust),
                trust=trust,
                abortable=interruptions.abortable,
                greet=reporter.greet if reporter else _nothing,
                witness=wiring.witness_of(configuration, receipts, appliers, journal, time_here, record),
                timetable=timetable,
            )
            wakes = Wakes(appliers.values(), reconciler.causes.reached, back=back)
            ending.callback(wakes.close)
            yield Parts(cycle, reporter.send if reporter else _nothing, journal, record, wakes)


def _secret_sources(configuration: AgentConfiguration) -> SecretSources | None:
    if configuration.secrets is None:
        return None
    from margo_gitops.agent.apply.secrets import SecretSources, protect_process

    protect_process()
    return SecretSources(configuration.secrets, os.environ, configuration.state_folder)


def _nothing(*_: object) -> None:
    """Do nothing: no server takes reports, no receipts are wanted."""


def _transport(configuration: AgentConfiguration) -> GitTransport | HttpTransport | StickTransport:
    """Return the transport of the source, nothing opened yet."""
    source, device = configuration.source, configuration.device
    # A device loads what speaks with its own source.
    if source.git is not None:
        from margo_gitops.transport.git.git_transport import GitTransport
        from margo_gitops.transport.git.source import GitSource

        return GitTransport(GitSource.of(source.git, device))
    if source.stick is not None:
        from margo_gitops.transport.stick.stick_transport import StickTransport

        return StickTransport(source.stick.path, device)
    if source.http is None:
        raise TypeError("a configuration has one source")
    from margo_gitops.transport.http.http_transport import HttpTransport
    from margo_gitops.transport.http.source import HttpSource

    address = HttpSource.of(source.http, device, configuration.state_folder / CLIENT_ID_FILE)
    return HttpTransport(address, signed=not configuration.trust.unsigned)


def _written_folders(configuration: AgentConfiguration, appliers: Mapping[str, Applier]) -> list[Path]:
    """Return where the agent and its appliers write, as far as they say."""
    own = (getattr(applier, "folder", None) for applier in appliers.values())
    return [configuration.state_folder, *(folder for folder in own if isinstance(folder, Path))]


def _carried(configuration: AgentConfiguration) -> Carried | None:
    """Return what opens content on the stick; None for a device with a line."""
    if configuration.source.stick is None:
        return None
    from margo_gitops.transport.stick.files import opened_blob

    return partial(opened_blob, configuration.source.stick.path)


def create_appliers(
    configuration: AgentConfiguration, interrupted: Callable[[], bool], secrets: SecretSources | None = None
) -> Mapping[str, Applier]:
    """Return the configured appliers by name, in the configuration's order.

    Args:
        interrupted: whether the agent was asked to stop.

    Raises:
        ApplierUnusable: one is not installed, or its settings cannot work.
    """
    appliers = {}
    for name, settings in configuration.appliers.items():
        folder = configuration.state_folder / APPLIERS_FOLDER / name
        make_folder(folder)
        context = ApplierContext(
            configuration.device,
            folder,
            settings.values,
            interrupted,
            proxy_from_environment=configuration.uses_proxy,
            registries=configuration.registries.settings(proxy_from_environment=configuration.uses_proxy),
            base=settings.folder,
            workloads=configuration.workloads,
            secrets=secrets.open if secrets else no_secrets,
            carried=_carried(configuration),
        )
        appliers[name] = create_applier(name, context)
    return appliers

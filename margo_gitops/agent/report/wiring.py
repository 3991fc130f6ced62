"""Which reporter, receipts and witness a configuration asks for; only what it asks for is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.memory.events import Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.pull.held import trusted_store
from margo_gitops.agent.settings.configuration import CARRIED_NUMBER_FILE, RECEIPTS_FOLDER, AgentConfiguration
from margo_gitops.appliers.applier import Applier
from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.values import replace

if TYPE_CHECKING:
    from margo_gitops.agent.apply.reconciler import Reconciler
    from margo_gitops.agent.memory.receipt_store import ReceiptStore
    from margo_gitops.agent.pull.device_clock import DeviceClock
    from margo_gitops.agent.report.git_reporter import GitReporter
    from margo_gitops.agent.report.reporter import Reporter
    from margo_gitops.agent.report.stick_reporter import StickReporter
    from margo_gitops.transport.git.git_transport import GitTransport
    from margo_gitops.transport.http.http_transport import HttpTransport
    from margo_gitops.transport.stick.stick_transport import StickTransport
    from margo_gitops.trust.trusted_state import TrustedState

REPORTS_CLIENT_ID_FILE: Final = "reports-client-id.json"


def reporter_of(
    transport: GitTransport | HttpTransport | StickTransport,
    configuration: AgentConfiguration,
    journal: Journal,
    record: Record,
    clock: Callable[[], float],
    abortable: Callable[[], AbstractContextManager[None]],
    receipts: ReceiptStore | None,
) -> Reporter | GitReporter | StickReporter | None:
    """Return what sends reports where the configuration says, or to the source; None where neither takes any."""
    if configuration.reports is None and configuration.source.stick is not None:
        return stick_reporter(configuration, configuration.source.stick.path, journal, record, clock, receipts)
    named = configuration.reports is not None and configuration.reports.origin
    if configuration.reports is None and configuration.source.http is None:
        return None
    from margo_gitops.agent.report.outgoing import state_origin

    origin = partial(state_origin, trusted_store(configuration)) if named else dict
    if configuration.reports and configuration.reports.git:
        from margo_gitops.agent.report.git_reporter import GitReporter
        from margo_gitops.transport.git.push import GitPush
        from margo_gitops.transport.git.source import GitSource

        branch = replace(configuration.reports.git, ref=device_reports_ref(configuration.device))
        return GitReporter(
            transport=GitPush(GitSource.of(branch, configuration.device)),
            device=configuration.device,
            capabilities=configuration.capability_files,
            journal=journal,
            record=record,
            timer=time.monotonic,
            clock=clock,
            abortable=abortable,
            origin=origin,
            more=receipts.files if receipts else dict,
        )
    settings = configuration.reports.http if configuration.reports else configuration.source.http
    from margo_gitops.agent.report.reporter import Reporter
    from margo_gitops.transport.http.http_transport import HttpTransport
    from margo_gitops.transport.http.source import HttpSource

    if configuration.reports and settings:
        client_id = configuration.state_folder / REPORTS_CLIENT_ID_FILE
        transport = HttpTransport(HttpSource.of(settings, configuration.device, client_id))
    if settings is None or not isinstance(transport, HttpTransport):
        raise TypeError("a source over HTTP has a transport over HTTP")

    return Reporter(
        transport=transport,
        device=configuration.device,
        capabilities=configuration.capability_files,
        statuses=settings.report_status,
        journal=journal,
        record=record,
        timer=time.monotonic,
        abortable=abortable,
        origin=origin,
        receipts=receipts,
    )


def stick_reporter(
    configuration: AgentConfiguration,
    place: Path,
    journal: Journal,
    record: Record,
    clock: Callable[[], float],
    receipts: ReceiptStore | None,
) -> StickReporter | None:
    """Return what writes reports onto a stick; None where the device has no key to sign them with."""
    if receipts is None or configuration.receipts is None:
        return None
    from margo_gitops.agent.report.stick_reporter import StickReporter
    from margo_gitops.transport.stick.stick_transport import StickTransport

    return StickReporter(
        transport=StickTransport(place, configuration.device),
        device=configuration.device,
        capabilities=configuration.capability_files,
        journal=journal,
        receipts=receipts,
        key=configuration.receipts.key,
        memory=configuration.state_folder / CARRIED_NUMBER_FILE,
        record=record,
        clock=clock,
    )


def discovery_of(
    configuration: AgentConfiguration, appliers: Mapping[str, Applier], record: Record, reconciler: Reconciler
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what looks for what the device offers, and what learns that an engine is back.

    The reconciler gets what was found. Both do nothing where a person says it all.
    """
    if not configuration.discover:
        return _nothing, _nothing
    from margo_gitops.agent.apply.workloads import read_eligibility
    from margo_gitops.agent.report.discovery import Discovery

    def changed() -> None:
        known = read_eligibility(configuration.device, configuration.capability_files)
        reconciler.limits = replace(reconciler.limits, eligibility=known)

    found = Discovery(configuration, appliers, record, changed)
    return found.look, found.back


def receipt_store(configuration: AgentConfiguration) -> ReceiptStore | None:
    """Return where receipts are kept; None where the configuration wants none."""
    if configuration.receipts is None:
        return None
    from margo_gitops.agent.memory.receipt_store import MOST_PUSHED, MOST_WAITING, ReceiptStore

    pushed = configuration.reports is not None and configuration.reports.git is not None
    return ReceiptStore(configuration.state_folder / RECEIPTS_FOLDER, MOST_PUSHED if pushed else MOST_WAITING)


def witness_of(
    configuration: AgentConfiguration,
    store: ReceiptStore | None,
    appliers: Mapping[str, Applier],
    journal: Journal,
    clock: DeviceClock,
    record: Record,
) -> Callable[[TrustedState], None]:
    """Return what signs what runs; what does nothing where the configuration wants no receipts."""
    if store is None or configuration.receipts is None:
        return _nothing
    from margo_gitops.agent.report.receipt_maker import ReceiptMaker

    key = configuration.receipts.key
    return ReceiptMaker(configuration.device, store, key, appliers, journal, clock, record).look


def _nothing(*_: object) -> None:
    """Do nothing: the configuration does not want it."""

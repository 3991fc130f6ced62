"""What the device tells its server: capabilities, and the status of each deployment (Margo capabilities and status).

REPORT-1  Only what changed is sent: what arrived is noted in the journal, durably, with the server it arrived at. So a
          restart repeats nothing but what was cut off, and another server gets everything.
REPORT-2  What is to arrive goes out after a cycle. Where it goes to the source, only if the poll was answered: a server
          that is away delays nothing. One sending takes half a minute at most; what is left goes out after the next
          cycle.
REPORT-3  After failures the next try comes later each time, up to an hour, and not before the server's `Retry-After`.
REPORT-4  A document that the server will not have (400, 409, 413, 415, 422) is not sent again until it changes.
REPORT-5  Capabilities come first, those of a gateway before those of its children: a server may refuse what it hears of
          a device that it does not know. Once, before the first poll, they go out for at most a few seconds.
REPORT-6  While something is applied, each new status goes out as it comes, in a thread with a connection of its own:
          the work never waits for it, and a deployment has one status a second at most. What does not arrive so waits
          in the outbox (margo_gitops/agent/memory/outbox.py), and what waits there goes out before what is newer.
REPORT-7  Where the configuration says so, a status names its origin when it is sent: state commit, signing key, agent
          version and boot. A status is not sent again because of that alone.
REPORT-8  Receipts come last, oldest first, and stay until they arrive: a server that has no room for them is asked
          again each hour.
REPORT-9  A deployment that the server does not know, or not from this device (403, 404, 410), is tried again later each
          time; it keeps no other one from being reported. Where three in a row are refused so, all rest.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.outbox import in_order
from margo_gitops.agent.memory.recorded import retry_pause
from margo_gitops.agent.report.outgoing import LONGEST_SENDING, Attempts, Origin, own_capabilities, with_origin
from margo_gitops.digests import sha256
from margo_gitops.errors import MargoGitopsError
from margo_gitops.transport.http.api import Reply, error_of
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.values import dataclass
from margo_gitops.web.metering import Deadline

if TYPE_CHECKING:  # loaded where the configuration asks for receipts
    from margo_gitops.agent.memory.receipt_store import ReceiptStore

_ARRIVED: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT})
_UNWANTED: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_NOT_HERE: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_MOST_IN_A_ROW: Final = 3
_NO_SUCH_RESOURCE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
_NO_RECEIPTS_SECONDS: Final = 3600.0
_LIVE_SECONDS: Final = 10.0
_GREETING_SECONDS: Final = 5.0
LIVE_PAUSE: Final = 1.0
"""Seconds between two rounds of statuses while something is applied; what changes in between goes out once."""

_CAPABILITIES_FACT: Final = "report.capabilities."


@dataclass(frozen=True, slots=True)
class _Report:
    """One document that the server does not have yet."""

    subject: str
    send: Callable[[Deadline], Reply]
    acknowledge: Callable[[], None]


class _NotHere(Exception):
    """The server knows nothing of what the report is about, or not from this device."""

    def __init__(self, error: MargoGitopsError) -> None:
        self.error = error


class _LiveStatuses:
    """Sends statuses in a thread (REPORT-6); after the first failure nothing more until `finish`."""

    def __init__(self, source: HttpSource, origin: Origin) -> None:
        self._transport = HttpTransport(source)
        self._origin = origin
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._latest: dict[str, bytes] = {}
        self._arrived: dict[str, bytes] = {}
        self._thread: threading.Thread | None = None

    def put(self, deployment: str, document: bytes) -> None:
        """Send a status soon, unless a newer one comes or the work ends before; return at once."""
        with self._lock:
            if self._ending.is_set():
                return
            self._latest[deployment] = document
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="statuses", daemon=True)
                self._thread.start()

    def finish(self) -> dict[str, bytes]:
        """Wait until no status is on its way, and return the last one of each deployment that arrived."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(2 * _LIVE_SECONDS)
            if self._thread.is_alive():
                return {}
        self._thread = None
        self._ending.clear()
        self._latest.clear()
        arrived, self._arrived = self._arrived, {}
        self._transport.close()
        return arrived

    def _work(self) -> None:
        while not self._ending.wait(LIVE_PAUSE):
            with self._lock:
                latest, self._latest = self._latest, {}
            for deployment, document in latest.items():
                if self._ending.is_set():
                    return
                deadline = Deadline(_LIVE_SECONDS, min(_LIVE_SECONDS, self._transport.source.read_seconds))
                try:
                    named = with_origin(document, self._origin())
                    reply = self._transport.api.post_status(deployment, named, deadline)
                except MargoGitopsError:
                    self._ending.set()
                    return
                if reply.status in _ARRIVED:
                    self._arrived[deployment] = document
                elif reply.status not in _UNWANTED:
                    self._ending.set()
                    return


@dataclass(eq=False, kw_only=True)
class Reporter:
    """Sends reports to one server: the one that the state comes from, or another (REPORT-2).

    Attributes:
        capabilities: files that say what the device and its children are and offer, the device's first.
        statuses: whether statuses are sent; static files take none.
        timer: seconds since some moment; never jumps.
        origin: what statuses name as their origin (REPORT-7); empty for nothing.
        receipts: what the device signed (REPORT-8); None for a device that signs nothing.
        abortable: a signal to stop may cut off what is done inside.
    """

    transport: HttpTransport
    device: str
    capabilities: Sequence[Path]
    statuses: bool
    journal: Journal
    record: Record
    timer: Callable[[], float]
    abortable: Callable[[], AbstractContextManager[None]]
    origin: Origin = dict
    receipts: ReceiptStore | None = None

    def __post_init__(self) -> None:
        self._attempts = Attempts(self.record, self.timer)
        self._no_receipts_before = 0.0
        self._live = _LiveStatuses(self.transport.source, self.origin) if self.statuses else None
        self._greeted = False
        self._going_out: set[str] = set()
        self._set_back: dict[str, tuple[int, float]] = {}
        self.journal.keeps_unsent = self.statuses

    def greet(self) -> None:
        """Send the capabilities that the server does not have, once; `send` says what went wrong (REPORT-5)."""
        if self._greeted:
            return
        self._greeted = True
        begin = self.timer()
        with contextlib.suppress(MargoGitopsError):
            for report in self._new_capabilities():
                left = _GREETING_SECONDS - (self.timer() - begin)
                with self.abortable():
                    reply = report.send(Deadline(max(left, 0.1), max(left, 0.1)))
                if reply.status not in _ARRIVED:
                    return
                report.acknowledge()

    def hear(self, deployment: str, document: bytes) -> None:
        """Take a new status while something is applied (REPORT-6)."""
        if self._live is None or not self._attempts.due:
            return
        if deployment not in self._going_out and sum(row[0] == deployment for row in self.journal.unsent()) > 1:
            return  # what waits goes out before it
        self._going_out.add(deployment)
        self._live.put(deployment, document)

    def send(self) -> None:
        """Send what the server does not have yet (REPORT-1 to REPORT-5). What goes wrong is recorded, not raised."""
        begin = self.timer()
        if not self._attempts.due:
            return
        try:
            if self._live is not None:
                with self.abortable():
                    arrived = self._live.finish()
                self._going_out.clear()
                for deployment, document in arrived.items():
                    self.journal.acknowledge(deployment, self._receipt(document), document)
            for report in self._new_capabilities():
                if not self._deliver(report, begin):
                    return
            if self.statuses and not self._send_statuses(begin):
                return
            self._send_receipts(begin)
        except _NotHere as refusal:
            self._attempts.failed(refusal.error)
        except MargoGitopsError as error:
            self._attempts.failed(error)
        else:
            self._attempts.worked()

    def _new_capabilities(self) -> Iterator[_Report]:
        known = self.journal.facts()
        for path in self.capabilities:
            name, document = own_capabilities(path, self.device)
            receipt = self._receipt(document)
            if known.get(_CAPABILITIES_FACT + name) != receipt:
                fact = {_CAPABILITIES_FACT + name: receipt}
                yield _Report(
                    name,
                    partial(self.transport.api.put_capabilities, name, document),
                    partial(self.journal.set_facts, fact),
                )

    def _send_statuses(self, begin: float) -> bool:
        """Send what waits (OUTBOX-1 to OUTBOX-5), and return whether there was time for all."""
        newest, known = self.journal.outbox(), self.journal.receipts()
        waiting = in_order(self.journal.unsent(), newest)
        for deployment, document in newest.items():
            if deployment not in waiting and known.get(deployment) != self._receipt(document):
                waiting[deployment] = [document]
        origin = self.origin() if waiting else {}
        in_a_row = 0
        for deployment, documents in waiting.items():
            if self.timer() < self._set_back.get(deployment, (0, 0.0))[1]:
                continue
            for document in documents:
                receipt = self._receipt(document)
                acknowledge = partial(self.journal.acknowledge, deployment, receipt, document)
                if known.get(deployment) == receipt:
                    acknowledge()  # it became again what the server knows
                    continue
                send = partial(self.transport.api.post_status, deployment, with_origin(document, origin))
                try:
                    if not self._deliver(_Report(deployment, send, acknowledge), begin):
                        return False
                except _NotHere as refusal:
                    in_a_row += 1
                    self._rest(deployment, refusal.error, alone=in_a_row < _MOST_IN_A_ROW)
                    break
                known[deployment] = receipt
                in_a_row = 0
                self._set_back.pop(deployment, None)
        return True

    def _rest(self, deployment: str, error: MargoGitopsError, *, alone: bool) -> None:
        """Let the statuses of a deployment rest that the server does not take (REPORT-9)."""
        if not alone:
            raise error
        tries = self._set_back.get(deployment, (0, 0.0))[0] + 1
        self._set_back[deployment] = tries, self.timer() + retry_pause(tries)
        self.record(Event.of(Reason.REPORT_FAILED, error, deployment))

    def _deliver(self, report: _Report, begin: float) -> bool:
        """Send a report, and return whether there was time for it."""
        seconds = LONGEST_SENDING - (self.timer() - begin)
        if seconds <= 0:
            return False
        with self.abortable():
            reply = report.send(Deadline(seconds, min(seconds, self.transport.source.read_seconds)))
        if reply.status in _UNWANTED:
            error = error_of(reply, self.transport.source)
            self.record(Event.of(Reason.REPORT_REFUSED, error, report.subject))
        elif reply.status in _NOT_HERE:
            raise _NotHere(error_of(reply, self.transport.source))
        elif reply.status not in _ARRIVED:
            raise error_of(reply, self.transport.source)
        report.acknowledge()
        return True

    def _send_receipts(self, begin: float) -> None:
        """Send what the device signed, oldest first (REPORT-8)."""
        store = self.receipts
        while store is not None and self.timer() >= self._no_receipts_before and (unsent := store.unsent()):
            seconds = LONGEST_SENDING - (self.timer() - begin)
            if seconds <= 0:
                return
            with self.abortable():
                deadline = Deadline(seconds, min(seconds, self.transport.source.read_seconds))
                reply = self.transport.api.post_receipts(unsent.content, deadline)
            if reply.status in _ARRIVED:
                store.sent(unsent.number)
            elif reply.status in _UNWANTED | _NO_SUCH_RESOURCE:
                self._no_receipts_before = self.timer() + _NO_RECEIPTS_SECONDS
                self.record(Event.of(Reason.REPORT_REFUSED, error_of(reply, self.transport.source), "receipts"))
            else:
                raise error_of(reply, self.transport.source)

    def _receipt(self, document: bytes) -> str:
        """Return what says that this document is where the device reports to (REPORT-1)."""
        return sha256(f"{self.transport.source.url}\0".encode() + document)

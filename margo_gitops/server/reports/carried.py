"""Take reports that a person carried home into the branch of reports, as if the device had sent them (docs/sticks.md).

HOME-5  What is not valid is refused before anything is written, by the same reading as what devices send to a server.
HOME-6  Receipts are committed in their order, at most 64 in one commit, and only those that the branch does not have.
        The number of what was taken is in the last commit, so what was cut off is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from margo_gitops.documents.carried import TakenReports
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.receipt import MAX_RECEIPTS, SignedReceipt, write_receipts
from margo_gitops.documents.records import read_ours, write
from margo_gitops.errors import CarriedForged, InvalidDocument, UnreadableDocument
from margo_gitops.server.problems import RequestRefused
from margo_gitops.server.reports.reading import device_in_fleet, read_capabilities, read_status
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.report_branch import LATEST, ReportBranch, ReportKey
from margo_gitops.trust.carried import Carried, is_news
from margo_gitops.trust.receipts import not_yet_held, read_receipts

Read = Callable[[ReportKey], bytes | None]


def take_reports(carried: Carried, branch: ReportBranch | FollowedState, read: Read, moment: int) -> bool:
    """Put what a device gave into the branch, and return whether it was news.

    Args:
        read: returns what the branch has.
        moment: the time, seconds since the epoch.

    Raises:
        CarriedReplayed: it is older than what was taken.
        CarriedForged: it is signed, and no server would take it.
        StateMoved, StateUnreachable, StateRepoUnusable: the branch cannot be written.
    """
    client = carried.reports.device
    mark = ReportKey(client, "carried", LATEST)
    if not is_news(carried, _taken(read(mark))):
        return False
    changes: dict[ReportKey, bytes | None] = {**_valid(carried)}
    changes[mark] = write_json(write(carried.taken))
    chain = ReportKey(client, "receipts", LATEST)
    held = read(chain)
    news = not_yet_held(read_receipts(held, LATEST) if held else (), carried.reports.receipts)
    *earlier, last = _pieces(news) or [()]
    title = f"Reports of {client}, carried home"
    trailers = [("Reported-By", f"{client} (stick {carried.key.fingerprint})")]
    for piece in earlier:
        branch.commit({chain: write_receipts(piece)}, title, trailers, moment)
    if last:
        changes[chain] = write_receipts(last)
    branch.commit(changes, title, trailers, moment)
    return True


def _pieces(receipts: tuple[SignedReceipt, ...]) -> list[tuple[SignedReceipt, ...]]:
    return [receipts[at : at + MAX_RECEIPTS] for at in range(0, len(receipts), MAX_RECEIPTS)]


def _valid(carried: Carried) -> dict[ReportKey, bytes]:
    """Return the reports in their normal form (HOME-5)."""
    client = carried.reports.device
    try:
        return dict(_normal(carried, client))
    except RequestRefused as refused:
        why = refused.problem.detail or refused.problem.title
        raise CarriedForged(
            f"the reports of {client} are not valid", device=client, why=[why], remedy="update the agent of the device"
        ) from refused


def _normal(carried: Carried, client: str) -> Iterator[tuple[ReportKey, bytes]]:
    for device, text in carried.reports.capabilities.items():
        content = read_capabilities(text.encode(), device, "lenient")
        yield ReportKey(client, "capabilities", device), content
    for deployment_id, text in carried.reports.statuses.items():
        status = read_status(text.encode(), deployment_id, "lenient", lambda device: device_in_fleet(client, device))
        yield ReportKey(client, "status", deployment_id), status.content


def _taken(content: bytes | None) -> TakenReports | None:
    try:
        return read_ours(TakenReports, content, "carried") if content is not None else None
    except (UnreadableDocument, InvalidDocument):
        return None

"""What devices said they ran, and since when: the history of the branch of reports, and what devices pushed last.

StateTampered where an object of it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from margo_gitops.documents.status import State
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.state_repo.reported import ReportedStatus, Reports
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class StatusSince:
    """A status, and the commit that brought it.

    Attributes:
        status: as reported.
        commit: of the branch of reports.
        time: of that commit, seconds since the epoch.
        evidence: of the sender's identity, as the commit names it; empty where it names none.
    """

    status: ReportedStatus
    commit: str
    time: int
    evidence: str

    @property
    def state(self) -> State:
        """The deployment's state."""
        return self.status.state


def moment(time: int) -> str:
    """Return the time of a report's commit as RFC 3339 text, in UTC.

    Args:
        time: seconds since the epoch.
    """
    return datetime.fromtimestamp(time, UTC).isoformat()


def adoptions(objects: StateObjects, refs: Mapping[str, str], client: str | None) -> dict[str, list[tuple[int, int]]]:
    """Return (adopted version, time) of every client each time that its adopted version went up, oldest first.

    Args:
        client: only this client; None: all.
    """
    reports = Reports(objects)
    found: dict[str, list[tuple[int, int]]] = {}
    tip = reports.tip(refs)
    for commit in reversed(list(reports.history(tip)) if tip else []):
        if client is not None and client not in commit.senders:
            continue
        for change in reports.changes(commit):
            if change.key is None or change.key.kind != "status" or change.after is None:
                continue
            if client is not None and change.key.client != client:
                continue
            status = reports.status(change.after)
            steps = found.setdefault(change.key.client, [])
            adopted = status.adopted if status else None
            if adopted is not None and (not steps or adopted > steps[-1][0]):
                steps.append((adopted, commit.time))
    pushed = PushedReports(objects, refs)
    for device in pushed.commits if client is None else {client}:
        if (own := pushed.get(device)) is not None:
            steps = found.setdefault(device, [])
            adopted = max((each.adopted or 0 for each in own.statuses.values()), default=0)
            if adopted and (not steps or adopted > steps[-1][0]):
                steps.append((adopted, own.time))
    return found


def adopted_at(steps: list[tuple[int, int]], version: int | None) -> str | None:
    """Return when a device's reports first named a version or a later one, as `moment`; None where they never did."""
    return next((moment(time) for adopted, time in steps if version is not None and adopted >= version), None)


def statuses_at(
    objects: StateObjects, refs: Mapping[str, str], client: str, at: datetime | None
) -> dict[str, StatusSince]:
    """Return a client's statuses at a time, by deployment id, each with the commit that brought it.

    Args:
        at: the time; None: now. The branch's order counts: of the commits not later than this, the newest.
    """
    reports = Reports(objects)
    tip = reports.tip(refs)
    latest = at.timestamp() if at is not None else float("inf")
    wanted: dict[str, ReportedStatus] | None = None
    found: dict[str, StatusSince] = {}
    for commit in reports.history(tip) if tip else ():
        if wanted is None:
            if commit.time > latest:
                continue
            folder = reports.client(commit.tree, client)
            wanted = reports.statuses(folder) if folder else {}
        if len(found) == len(wanted):
            break
        if client not in commit.senders:
            continue
        for change in reports.changes(commit):
            key = change.key
            if key is not None and key.client == client and key.kind == "status" and change.after is not None:
                status = wanted.get(key.name)
                if status is not None and key.name not in found:
                    found[key.name] = StatusSince(
                        status, commit.id, commit.time, ", ".join(commit.senders.get(client, ()))
                    )
    own = PushedReports(objects, refs).get(client)
    if own is not None and max((each.time for each in found.values()), default=0) <= own.time <= latest:
        how = "pushed to the device's own branch, by its own clock"
        return {name: StatusSince(status, own.commit, own.time, how) for name, status in own.statuses.items()}
    return found

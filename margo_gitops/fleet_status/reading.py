"""Read the status of a fleet from its state repo: the branches `fleet` and `reports`, and the fleet repo for labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from margo_gitops.catalog.fleet import find_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.device_id import client_of, decode_device_id
from margo_gitops.documents.state_layout import FLEET_REF, is_remote
from margo_gitops.errors import StatusUnusable
from margo_gitops.fleet_status.desired import Desired, DesiredReader
from margo_gitops.fleet_status.signers import Signers
from margo_gitops.fleet_status.status import (
    DeploymentReport,
    DeviceStatus,
    FleetStatus,
    StatusFilter,
    by_site,
    counted_states,
    judge_device,
)
from margo_gitops.operations.fleet_input import BUCKET, StateRequest, opened_state
from margo_gitops.processes import without_collections
from margo_gitops.rendering.placement import nearest, selected, targets
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import DevicePlace, StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.state_repo.reported import ReportedStatus, Reports
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, field, replace
from margo_gitops.wording import did_you_mean

_SEARCHED: Final = 20_000
"""How many commits of the branch of reports are searched for a device that was not seen: about a second."""


@dataclass(frozen=True, slots=True)
class StatusRequest(StateRequest):
    """Which state repo to look at, and which devices in it.

    Attributes:
        brief: whether a device has only its deployments that failed or wait, so that no other document is read.
    """

    filter: StatusFilter = field(default_factory=StatusFilter)
    brief: bool = False


def read_status(request: StatusRequest) -> FleetStatus:
    """Return the status of a fleet.

    Raises:
        StatusUnusable: a device that was asked for is not there, or labels are asked for without a fleet repo.
        StateTampered: the state repo holds what no render and no server wrote.
        MargoGitopsError: one of the repos cannot be read.
    """
    with opened_state(request) as (objects, location), without_collections():
        return StatusReader(objects, location, request).read()


def _refuse_bucket(location: str) -> None:
    if location.startswith(BUCKET):
        raise StatusUnusable(
            f"{location} is a bucket, which holds no reports",
            remedy="name the git repository that gets the reports (reportsUrl of the servers)",
        )


@dataclass(slots=True)
class StatusReader:
    """Reads the status of one state repo, as often as one likes; what cannot change is kept."""

    objects: StateObjects
    location: str
    request: StatusRequest
    _desired: DesiredReader = field(init=False)
    _seen: _LastSeen = field(init=False)
    _by_labels: tuple[str | None, frozenset[str]] | None = None

    def __post_init__(self) -> None:
        _refuse_bucket(self.location)
        self._desired = DesiredReader(self.objects)
        self._seen = _LastSeen(Reports(self.objects))

    @property
    def is_fetched(self) -> bool:
        """Whether what is read comes from elsewhere, and must be fetched again to see a change."""
        return is_remote(self.location) or self.objects.reports is not None

    def read(self, refs: Mapping[str, str] | None = None) -> FleetStatus:
        """Return the status as it is now.

        Args:
            refs: all refs of the state repo; None: they are read.

        Raises:
            StatusUnusable, StateTampered: as `read_status`.
        """
        refs = self.objects.refs() if refs is None else refs
        tip = refs.get(FLEET_REF)
        commit = self.objects.commit(tip) if tip else None
        fleet_commit = StateCommit.of(commit).fleet_commit if commit else None
        reports, pushed = Reports(self.objects), PushedReports(self.objects, refs)
        reported = reports.tip(refs)
        folders = self._folders(reports, reported)
        places = self._places(self.objects.places(commit.tree) if commit else {}, fleet_commit)
        times = dict(self._seen.update(reported, frozenset(folders).intersection(places)))
        found, signers = [], Signers(self.objects, refs)
        for device, place in places.items():
            own = pushed.get(device)
            if own is not None and own.time >= times.get(device, 0):
                statuses, times[device] = own.statuses, own.time
            else:
                statuses = reports.statuses(folders[device]) if device in folders else {}
            status = self._device(device, place, statuses)
            if status is not None:
                copied = reports.copied(folders[device]) if device in folders else None
                signer = signers.of(status, place.tree, named=bool(self.request.filter.devices))
                seen = _time(times.get(device))
                found.append(replace(status, copied=copied, signer=signer, last_seen=seen))
        return FleetStatus(
            state_repo=self.location,
            state_commit=tip,
            fleet_commit=fleet_commit,
            signer=signers.newest,
            reports_commit=reported,
            pushing=len(pushed.commits),
            searched_to=_time(self._seen.searched_to),
            counts=counted_states(found),
            sites=by_site(found),
            devices=tuple(found),
        )

    def _folders(self, reports: Reports, tip: str | None) -> dict[str, str]:
        """Return the tree of each client's reports: of all, or only of those that were asked for."""
        if tip is None:
            return {}
        tree = reports.commit(tip).tree
        if self.request.filter.devices:
            named = {client: reports.client(tree, client) for client in self.request.filter.clients}
            return {client: folder for client, folder in named.items() if folder is not None}
        return dict(reports.clients(tree))

    def _places(self, places: Mapping[str, DevicePlace], fleet_commit: str | None) -> dict[str, DevicePlace]:
        """Return the devices that the filter lets through as far as their place tells, sorted by site and id."""
        wanted = self.request.filter
        found, known = {}, set()
        for encoded, place in places.items():
            try:
                device = decode_device_id(encoded)
            except ValueError as error:
                raise bad_object(place.tree, f"its folder {encoded} is not a device's") from error
            known.add(device)
            if wanted.place(device, place.site, left=place.left):
                found[device] = place
        if missing := sorted(wanted.clients - found.keys()):
            raise StatusUnusable(
                f"{missing[0]} is not a device of this fleet, or not of the sites named",
                remedy=did_you_mean(missing[0], known, "list them: margo-gitops status"),
            )
        sites = {place.site for place in places.values()}
        if missing := sorted(wanted.sites - sites):
            raise StatusUnusable(
                f"{missing[0]} is not the site of any device of this fleet",
                remedy=did_you_mean(missing[0], filter(None, sites), "list them: margo-gitops status"),
            )
        if wanted.labels:
            selected_clients = self._selected(fleet_commit)
            found = {device: place for device, place in found.items() if device in selected_clients}
        return dict(sorted(found.items(), key=lambda item: (item[1].site is None, item[1].site or "", item[0])))

    def _selected(self, fleet_commit: str | None) -> frozenset[str]:
        """Return the clients that the selectors select, by the labels of the commit that was rendered."""
        if self._by_labels is None or self._by_labels[0] != fleet_commit:
            repo = FleetRepo.find(self.request.fleet)
            revision = fleet_commit if fleet_commit and repo.knows(fleet_commit) else "HEAD"
            intent, _ = find_fleet(repo.tree(revision))
            if intent is None:
                raise StatusUnusable(
                    "the labels of devices are not known: the fleet repo cannot be read",
                    remedy="see what is wrong: margo-gitops validate",
                )
            selectors = [each(intent) for each in self.request.filter.labels]
            fleet = targets(intent)
            clients = {
                client_of(device)
                for device, target in fleet.items()
                if all(selected(each, target) for each in selectors)
            }
            if not clients and (why := [line for each in selectors for line in nearest(each, fleet)]):
                raise StatusUnusable("no device of this fleet has these labels", why=why)
            self._by_labels = (fleet_commit, frozenset(clients))
        return self._by_labels[1]

    def _device(self, device: str, place: DevicePlace, reported: Mapping[str, ReportedStatus]) -> DeviceStatus | None:
        wanted = self.request.filter
        desired = self._desired.read(place.tree)
        state, adopted = judge_device(desired.version, desired.deployments, reported)
        if place.left:
            state = "left"
        if wanted.states and state not in wanted.states:
            return None
        deployments = tuple(
            sorted(self._deployments(device, desired, reported), key=lambda each: (each.name, each.device))
        )
        if wanted.applications and not any(
            each.wanted and each.application in wanted.applications for each in deployments
        ):
            return None
        return DeviceStatus(device, place.site, state, desired.version, adopted, None, None, None, deployments)

    def _deployments(
        self, device: str, desired: Desired, reported: Mapping[str, ReportedStatus]
    ) -> Iterator[DeploymentReport]:
        brief = self.request.brief and not self.request.filter.applications
        for each in desired.deployments:
            status = reported.get(each)
            if brief and (status is None or (status.state != "failed" and not status.error)):
                continue
            blob = desired.document(each)
            named = self._desired.named(blob) if blob else None
            yield DeploymentReport(
                name=named.name if named else each,
                id=each,
                device=named.device if named else device,
                application=named.application if named else None,
                wanted=True,
                state=status.state if status else None,
                adopted=status.adopted if status else None,
                error=(status.error or None) if status else None,
            )
        for each, status in reported.items():
            # What is removed is as it should be; only what is not gone yet is worth a word.
            if each not in desired.deployments and status.state != "removed":
                yield DeploymentReport(
                    each, each, status.device or device, None, False, status.state, status.adopted, status.error or None
                )


def devices_by_signer(request: StatusRequest) -> dict[str | None, list[DeviceStatus]]:
    """Return devices by the fingerprint of the key that signed their newest state; None: without a signature.

    Raises:
        MargoGitopsError: as `read_status`.
    """
    with opened_state(request) as (objects, location), without_collections():
        refs, found = objects.refs(), dict[str | None, list[DeviceStatus]]()
        repo = StateRepo.open(objects.folder)
        for each in StatusReader(objects, location, replace(request, brief=True)).read(refs).devices:
            signature = repo.signature(each.device, refs)
            found.setdefault(signature.key.fingerprint if signature else None, []).append(each)
        return found


def has_adopted(device: DeviceStatus) -> bool:
    """Return whether a device reported that it adopted its newest state, or has nothing to report.

    One that reports a higher version than there is has adopted something else, or does not tell the truth.
    """
    return device.state == "installed" or device.adopted == device.desired


class _LastSeen:
    """When each client's last report was committed: the branch is walked back until all that matter were met."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._tip: str | None = None
        self._times: dict[str, int] = {}
        self._whole = False
        self.searched_to: int | None = None

    def update(self, tip: str | None, wanted: frozenset[str]) -> Mapping[str, int]:
        """Return the times known; at least those of the wanted clients that were met."""
        self.searched_to = None
        if tip is None:
            return self._times
        known, fresh = self._tip, dict[str, int]()
        met_known = False
        missing = set(wanted)
        for count, commit in enumerate(self._reports.history(tip)):
            if commit.id == known:
                met_known = True
                missing -= self._times.keys()
                if self._whole or not missing:
                    break
            for client in commit.senders:
                fresh.setdefault(client, commit.time)
                missing.discard(client)
            if not missing and known is None:
                break
            if count >= _SEARCHED:
                self.searched_to = commit.time
                break
        else:
            self._whole = True
        self._times = {**self._times, **fresh} if met_known or known is None else fresh
        self._tip = tip
        return self._times


def _time(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds is not None else None


@dataclass(frozen=True, slots=True)
class ReportedCapabilities:
    """The capabilities in the branch of reports.

    Attributes:
        commit: of the branch; None where nothing was ever reported.
        documents: the reported bytes, by device id; a gateway reports for its children.
    """

    commit: str | None
    documents: Mapping[str, bytes]


def read_reported_capabilities(request: StatusRequest) -> ReportedCapabilities:
    """Return the capabilities of all devices that reported any.

    What a client says of a device that is neither itself nor a child of it is left out: placement must not follow what
    one device says of another.

    Raises:
        StateTampered: the branch holds what no server wrote.
        MargoGitopsError: the state repo cannot be read.
    """
    with opened_state(request) as (objects, location):
        _refuse_bucket(location)
        refs = objects.refs()
        reports, pushed = Reports(objects), PushedReports(objects, refs)
        tip = reports.tip(refs)
        documents = {
            device: content
            for client, folder in (reports.clients(reports.commit(tip).tree) if tip else ())
            for device, content in reports.capabilities(folder).items()
            if client_of(device) == client
        }
        for client in pushed.commits:
            if (own := pushed.get(client)) is not None:
                documents |= own.capabilities
        return ReportedCapabilities(tip, documents)

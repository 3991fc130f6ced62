"""The way back of a deployment whose update fails: what it was when all of it ran last (`spec.onFailure: rollback`).

BACK-1  Once all components of such a deployment are installed, its document is remembered: the last good one.
BACK-2  Where a component of other content does not come up, or a hook after it fails, that is written down first. From
        then on the device wants the last good one in its place: components go back, also those that were updated well,
        and new ones are removed. So a device that is killed on the way continues where it was. No window holds it up.
BACK-3  It stays so for this content and this policy. The next poll of the same does not undo it (failure mode F10);
        other content, another policy, or a person who asks does.
BACK-4  Its status is failed with MG1623, never installed (failure mode F9).
BACK-5  Appliers hear with each component what may be needed again, and keep it (`Workload.keeps`).
BACK-6  A disk, a network or an engine that failed says nothing about an update: it is tried again, nothing goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

from margo_gitops.agent.apply.workloads import DesiredDeployment, DeviceLimits, desired_deployment
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.declarations import DigestText
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.json_text import write_json
from margo_gitops.errors import ApplyError, HookFailed, InstallFailed, RolledBack
from margo_gitops.values import dataclass, field, replace
from margo_gitops.wording import abridged

_LONGEST_REASON: Final = 1000


@dataclass(frozen=True, slots=True)
class _Way:
    """The way back of one deployment.

    Attributes:
        good: what all of it ran last.
        failed: the content that did not come up; None where nothing failed since.
        why: which component, and why.
    """

    good: ApplicationDeployment
    failed: DigestText | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Ways:
    """The ways back of all deployments that have one, by id."""

    FACT: ClassVar[str] = "last-good"
    deployments: Mapping[str, _Way] = field(default_factory=dict)


@dataclass(eq=False)
class Rollbacks:
    """Remembers ways back, and takes them.

    Attributes:
        facts: keeps records; raises StorageFull and StateFolderUnusable.
    """

    facts: Facts

    def wanted(
        self, desired: Sequence[DesiredDeployment], limits: DeviceLimits, *, retry: bool
    ) -> tuple[DesiredDeployment, ...]:
        """Return what to apply: the last good one where what the state asks for failed (BACK-2, BACK-3)."""
        known = self._known()
        if not known:
            return tuple(desired)
        ways, found = {}, []
        for item in desired:
            way = known.get(item.id) if item.refusal is not None or item.on_failure == "rollback" else None
            if way is not None and item.refusal is not None:
                ways[item.id] = way  # what is refused for a while says nothing about its content
            elif way is not None:
                way = way if way.failed == _content(item) and not retry else replace(way, failed=None, why="")
                ways[item.id] = way
                item = _with_way(item, way, desired_deployment(way.good, limits))
            found.append(item)
        self.facts.put(_Ways(ways))
        return tuple(found)

    def leave(self, item: DesiredDeployment, error: ApplyError, failed: Workload) -> bool:
        """Write down that a component did not come up; return whether the deployment goes back now."""
        way = self._known().get(item.id)
        if way is None or item.fallback is not None or not isinstance(error, (InstallFailed, HookFailed)):
            return False
        good = {workload.component.name: workload.keeps for workload in item.workloads}
        if all(workload.digest == good[workload.component.name] for workload in item.workloads) and len(good) == len(
            way.good.spec.deployment_profile.components
        ):
            return False  # it is the last good one itself that does not come up
        said = str(error).partition("\n  remedy: ")[0]  # the way back has a remedy of its own
        why = abridged(f"component {failed.component.name}: {said}", _LONGEST_REASON)
        self.facts.put(_Ways({**self._known(), item.id: replace(way, failed=_content(item), why=why)}))
        return True

    def ended(self, desired: Iterable[DesiredDeployment], known: Mapping[WorkloadKey, RecordedWorkload]) -> None:
        """Remember the deployments of which all is installed (BACK-1)."""
        good = {
            item.id: _Way(item.document)
            for item in desired
            if item.on_failure == "rollback"
            and item.fallback is None
            and item.workloads
            and all(_is_installed(known.get(workload.key), workload) for workload in item.workloads)
        }
        self.facts.put(_Ways({**self._known(), **good}))

    def _known(self) -> Mapping[str, _Way]:
        return self.facts.get(_Ways).deployments


def _with_way(item: DesiredDeployment, way: _Way, good: DesiredDeployment) -> DesiredDeployment:
    digests = {workload.component.name: workload.digest for workload in good.workloads}
    wanted = item if way.failed is None or good.refusal is not None else good
    workloads = tuple(replace(each, keeps=digests.get(each.component.name)) for each in wanted.workloads)
    if wanted is item:
        return replace(item, workloads=workloads)
    version = good.extension.application_version if good.extension else "what was before"
    health = good.extension.health if good.extension else None
    # Its calendars, locks and hooks are those of today. When it is ready, only its own document knows.
    extension = replace(item.extension, application_version=version, health=health) if item.extension else None
    fallback = RolledBack(
        f"the deployment {way.good.metadata.name} is rolled back to {version}, which ran last",
        why=way.why.splitlines(),
        remedy="correct the application or its parameters, and deploy again; or let the device try it once more "
        "(SIGHUP, `agent once --retry`)",
    )
    return replace(item, document=way.good, workloads=workloads, extension=extension, fallback=fallback)


def _content(item: DesiredDeployment) -> Digest:
    """Return what must change for an update to be tried again: its content, or its policy."""
    return sha256(write_json([item.on_failure, {each.component.name: each.digest for each in item.workloads}]))


def _is_installed(row: RecordedWorkload | None, workload: Workload) -> bool:
    return row is not None and row.state == "installed" and row.installed == workload.digest

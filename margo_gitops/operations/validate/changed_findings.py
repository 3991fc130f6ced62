"""What a change brings, from the part of the fleet that it concerns.

SINCE-1  A device whose own files, site and deployments are the same on both sides has the same findings there. They are
         not shown, so the device is not looked at.
SINCE-2  A finding that is new in the part, in a file that did not change, may be one that another device had before.
         That something selects or matches no device of the part says nothing of others. Some others are looked at.
SINCE-3  Where they do not decide, or all devices are concerned, the whole fleet is checked on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from margo_gitops.catalog.file_tree import RootTree, TreeFile
from margo_gitops.catalog.fleet import find_devices, find_fleet, refuse_findings
from margo_gitops.catalog.fleet_part import files_of
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.nodes import DEFAULT_BOUNDS
from margo_gitops.errors import Finding, NoFleetRepo, ReferenceUnknown, UnreadableDocument
from margo_gitops.operations.policies.policy_history import PolicyHistory, Span
from margo_gitops.operations.render.changed_part import changed_deployments, lost_placements
from margo_gitops.operations.validate.rule_findings import RuleFinding
from margo_gitops.operations.validate.tree_findings import Previous, judged
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import select, targets
from margo_gitops.values import dataclass, replace

_OTHERS: Final = (4, 64)
"""How many files of other devices are looked at, each time."""
_IDLE: Final = ("R109", "R111")
_IDLE_SILENCE: Final = "R304"
_OF_THE_DATE: Final = "R301"
"""What is found on the newer side alone, after any change."""


@dataclass(frozen=True, slots=True)
class ChangedTree:
    """What changed between two trees.

    Attributes:
        files: the paths that differ.
        span: the same change, as policies judge it.
    """

    before: RootTree
    after: RootTree
    files: frozenset[str]
    span: Span
    previous: Previous

    def has(self, finding: RuleFinding) -> bool:
        """Whether the file of a finding differs; some are of a package's folder."""
        if finding.file is None or finding.file in self.files:
            return finding.file is not None
        return any(path.startswith(f"{finding.file}/") for path in self.files)

    def news(self, before: Collection[RuleFinding], after: Collection[RuleFinding]) -> list[RuleFinding]:
        """Return what the change brings: findings in files that differ, or that were not there before."""
        known = {each.identity for each in before}
        return [each for each in after if self.has(each) or each.identity not in known]


@dataclass(frozen=True, slots=True)
class ChangedFindings:
    """What a change brings, and the part of the fleet that it concerns.

    Attributes:
        before: returns it as it was (FleetInvalid: with every finding of its files).
        after: returns it as it is.
    """

    findings: list[RuleFinding]
    before: Callable[[], Intent]
    after: Callable[[], Intent]


def findings_of_change(change: ChangedTree) -> ChangedFindings | None:
    """Return what a change brings; None where only a look at all devices can say it.

    Raises:
        NoFleetRepo: there is no `margo-gitops.yaml` now.
        PolicyUnusable: the fleet repo's history is not whole.
    """
    try:
        after = _Side.of(change.after, change.span)
        before = _Side.of(change.before, None)
    except (NoFleetRepo, UnreadableDocument):
        return None
    if before is None or after is None or FLEET_FILE in change.files:
        return None
    # A policy that came and went between the two judges other devices too.
    if len(PolicyHistory(change.span.repo, after.shared.fleet).result_policies(change.span)) > 1:
        return None
    return _Comparison(change, before, after).result()


@dataclass(frozen=True, slots=True)
class _Side:
    """A tree, and what all devices share of it."""

    tree: RootTree
    shared: Intent
    found: Sequence[Finding]
    paths: Sequence[str]
    span: Span | None

    @classmethod
    def of(cls, tree: RootTree, span: Span | None) -> _Side | None:
        shared, found = find_fleet(tree, ())
        return cls(tree, shared, found, list(tree.paths("devices")), span) if shared else None

    def part(self, clients: Collection[str], files: Collection[str] = ()) -> _Part:
        """Return some devices, and what was found in their files and in others."""
        paths = {*files_of(self.paths, clients), *files}
        devices, found = find_devices(self.tree, [path for path in self.paths if path in paths])
        devices = {name: each for name, each in devices.items() if client_of(name) in clients}
        return _Part(self, replace(self.shared, devices=devices, clients=frozenset(clients)), [*self.found, *found])


@dataclass(frozen=True, slots=True)
class _Part:
    """Some devices of a side."""

    side: _Side
    intent: Intent
    found: Sequence[Finding]

    def read(self) -> Intent:
        refuse_findings(self.found)
        return self.intent


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Both sides of a change."""

    change: ChangedTree
    before: _Side
    after: _Side

    def result(self) -> ChangedFindings | None:
        deployments = changed_deployments(self.before.shared, self.after.shared)
        if deployments is None:
            return None
        files = [path for path in self.change.files if path.startswith("devices/")]
        sites = {*self._changed_sites(), *(site for each in deployments for site in each.spec.placement.sites)}
        clients = {client_of(name) for each in deployments for name in each.spec.placement.devices}
        for side in (self.before, self.after):
            clients.update(map(client_of, find_devices(side.tree, files)[0]))
        clients.update(_clients_at(self.after, sites))
        was, now = self.before.part(clients, files), self.after.part(clients, files)
        news = self.change.news(self._findings(was), self._findings(now))
        lost = lost_placements(now.intent, lambda: was.intent, {each.metadata.name for each in deployments})
        if any(each.rule == ReferenceUnknown.code for each in news):
            # What a reference names may be in the file of another device that cannot be read.
            sure = self._findings(now, frozenset({"device"}))
            if any(each.rule == ReferenceUnknown.code and each not in sure for each in news):
                return None
        doubtful = [each for each in news if self._is_doubtful(each)]
        others = self._others(clients)
        while lost or doubtful:
            other = next(others, None)
            if other is None:
                return None
            fleet = targets(other[1].intent)
            lost = [placement for placement in lost if not any(select(placement, fleet))]
            decided = [*self._decided(doubtful, other)]
            news = [each for each in news if each not in decided]
            doubtful = [each for each in doubtful if each not in decided]
        return ChangedFindings(news, was.read, now.read)

    def _is_doubtful(self, finding: RuleFinding) -> bool:
        # What has no effect is known from all devices, and the remedy of an idle overlay looks at their labels.
        return finding.rule != _OF_THE_DATE and (finding.rule in _IDLE or not self.change.has(finding))

    def _decided(self, doubtful: Iterable[RuleFinding], other: tuple[_Part, _Part]) -> Iterator[RuleFinding]:
        """Yield the findings that the change does not bring, by what other devices have."""
        fleet = targets(other[1].intent)
        had, has = ({each.identity for each in self._findings(side)} for side in other)
        every = self.after.shared.deployments.values()
        reached = {each.file for each in every if any(select(each.value.spec.placement, fleet))}
        for each in doubtful:
            if each.rule in _IDLE:
                lifted = each.file in reached and each.identity not in has
            else:
                lifted = each.identity not in has if each.rule == _IDLE_SILENCE else each.identity in had
            if lifted:
                yield each

    def _changed_sites(self) -> Iterator[str]:
        old, new = self.before.shared.sites, self.after.shared.sites
        for name in old.keys() | new.keys():
            if name not in old or name not in new or old[name].content != new[name].content:
                yield name

    def _findings(self, part: _Part, unread: frozenset[str] = frozenset()) -> list[RuleFinding]:
        old, new = self.before.shared.applications, self.after.shared.applications
        same = [key for key in old.keys() & new.keys() if old[key].digest == new[key].digest]
        return judged(part.side.tree, part.intent, part.found, self.change.previous, part.side.span, same, unread)

    def _others(self, clients: Collection[str]) -> Iterator[tuple[_Part, _Part]]:
        """Yield some devices that the change does not concern, on both sides."""
        used = {*files_of(self.after.paths, clients), *self.change.files}
        rest = [path for path in self.after.paths if path not in used]
        for most in _OTHERS:
            some = {client_of(name) for name in find_devices(self.after.tree, rest[:most])[0]}
            yield self.before.part(some), self.after.part(some)
            rest = rest[most:]


def _clients_at(side: _Side, sites: Collection[str]) -> Iterator[str]:
    """Yield the clients that are at some sites, or have a child there."""
    if sites:
        # What names a site has the name in it, or an escape.
        named = re.compile(b"|".join([rb"\\", *(re.escape(site.encode()) for site in sites)]))
        files = [file.path for file in side.tree.files("devices") if _may_name(file, named)]
        for name, each in find_devices(side.tree, files)[0].items():
            if each.value.spec.site in sites:
                yield client_of(name)


def _may_name(file: TreeFile, named: re.Pattern[bytes]) -> bool:
    try:
        return file.kind == "file" and named.search(file.read(DEFAULT_BOUNDS.size)) is not None
    except UnreadableDocument:
        return False

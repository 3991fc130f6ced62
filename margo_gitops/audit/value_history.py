"""Since when a device should have a value: its branch read backwards until the value was another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from margo_gitops.audit.adoption import adopted_at, moment
from margo_gitops.audit.log import date_of
from margo_gitops.audit.traced import TracedSince
from margo_gitops.audit.tree_comparison import manifest_version
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import FieldPath, Node, Scalar
from margo_gitops.errors import UnreadableDocument
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.trust.git_objects import BLOB

Leaves = Mapping[FieldPath, Node]
"""The values of a document that hold no others, and empty lists and mappings, by path, in the file's order."""


def leaves(root: Node) -> dict[FieldPath, Node]:
    """Return the values of a document that hold no others."""
    return dict(_leaves((), root))


def _leaves(path: FieldPath, node: Node) -> Iterator[tuple[FieldPath, Node]]:
    if isinstance(node.value, dict) and node.value:
        for key, child in node.value.items():
            yield from _leaves((*path, key), child)
    elif isinstance(node.value, list) and node.value:
        for index, child in enumerate(node.value):
            yield from _leaves((*path, index), child)
    else:
        yield path, node


def scalar(node: Node) -> Scalar:
    """Return a leaf's value; None for an empty list or mapping."""
    return None if isinstance(node.value, dict | list) else node.value


@dataclass(slots=True)
class ValueHistory:
    """A device's branch up to the commit that is traced.

    Attributes:
        objects: the state repo.
        branch: ids, oldest first; the last one is traced.
        adoptions: of the device, as `adoption.adoptions` tells them.
    """

    objects: StateObjects
    branch: Sequence[str]
    adoptions: list[tuple[int, int]]
    _since: dict[str, TracedSince] = field(default_factory=dict)

    def of_file(self, path: str) -> TracedSince:
        """Return since when a file of the traced commit is as it is.

        Raises:
            StateTampered: an object is missing.
        """
        first = self.branch[-1]
        blob = self._blob(first, path)
        for name in reversed(self.branch[:-1]):
            if self._blob(name, path) != blob:
                break
            first = name
        return self._told(first)

    def of_values(self, path: str, values: Leaves) -> dict[FieldPath, TracedSince]:
        """Return since when each value of a file of the traced commit is as it is.

        Args:
            path: of the file.
            values: of the file at the traced commit.

        Raises:
            StateTampered: an object is missing.
        """
        pending = {each: scalar(node) for each, node in values.items()}
        found: dict[FieldPath, TracedSince] = {}
        newer = self.branch[-1]
        read = self._blob(newer, path)
        for name in reversed(self.branch[:-1]):
            blob = self._blob(name, path)
            if blob != read:
                then = self._read(blob, path)
                for each in [each for each, value in pending.items() if not _is_same(then.get(each), value)]:
                    found[each] = self._told(newer)
                    del pending[each]
                read = blob
            if not pending:
                break
            newer = name
        return found | {each: self._told(newer) for each in pending}

    def _blob(self, commit: str, path: str) -> str | None:
        return DeviceTree(self.objects, self.objects.commit(commit).tree).files.get(path)

    def _read(self, blob: str | None, path: str) -> Leaves:
        if blob is None:
            return {}
        try:
            return leaves(read_source(self.objects.read(blob, BLOB), path).root)
        except UnreadableDocument:
            return {}

    def _told(self, name: str) -> TracedSince:
        if name not in self._since:
            commit = self.objects.commit(name)
            version = manifest_version(DeviceTree(self.objects, commit.tree).manifest)
            time = adopted_at(self.adoptions, version) if version is not None else None
            date = date_of(commit.author.time, commit.author.offset)
            self._since[name] = TracedSince(version, name, date, moment(time) if time is not None else None)
        return self._since[name]


def _is_same(then: Node | None, now: Scalar) -> bool:
    if then is None:
        return False
    before = scalar(then)
    return before == now and type(before) is type(now)

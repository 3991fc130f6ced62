"""Packs of device commits: built once, kept while there is room (git subset, G-S-6 to G-S-9).

A commit never changes, so neither does its pack. What devices ask for is the tip at depth 1, whole or as a difference
to a commit shortly before; those are kept. Histories, which people ask for, are built each time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from dulwich.pack import create_delta

from margo_gitops.cache import SizedCache
from margo_gitops.server.resources.git_wire import Fetch, RefusedError
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.trust.git_objects import entry_header, pack_bytes, pack_entry
from margo_gitops.values import dataclass

CACHE_BYTES: Final = 64 * 1024 * 1024
MAX_COMMITS: Final = 20_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one pack, once inflated."""

_RECENT: Final = 64
"""How far back a commit that a device holds is looked for."""

_LARGEST_DELTA: Final = 64 * 1024
_REF_DELTA: Final = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """What answers a fetch.

    Attributes:
        send: commits of the pack.
        common: commits that the client holds too, in the order it named them.
        shallow: commits of the answer whose parents are not in it.
        unshallow: commits that the client calls shallow, and will not be.
        base: the one commit to make deltas against; None: the pack has no deltas.
        is_kept: the pack is one that devices ask for.
    """

    wants: tuple[str, ...]
    send: tuple[str, ...]
    common: tuple[str, ...]
    shallow: tuple[str, ...]
    unshallow: tuple[str, ...]
    base: str | None
    is_kept: bool


def plan_fetch(objects: StateObjects, request: Fetch) -> Plan:
    """Return what answers a fetch whose wants the caller may have.

    Whether the client's other ids exist is never looked up: they count where the walk from the wants meets them.

    Raises:
        RefusedError: the history is longer than is served.
        StateTampered: an object is missing.
    """
    first = request.depth == 1 and not request.relative
    if first:
        known = objects.history(request.wants, _RECENT, depth=None if request.haves else 1, ends=request.haves)
    else:
        known = objects.history(request.wants, MAX_COMMITS + 1)
    if len(known) > MAX_COMMITS:
        raise RefusedError(f"the history has more than {MAX_COMMITS} commits: ask for fewer with --depth")
    depth = request.depth
    if depth is not None and request.relative:
        depth += max((known[name] for name in request.shallow if name in known), default=0)
    wanted = {name: at for name, at in known.items() if depth is None or at <= depth}
    common = tuple(name for name in request.haves if name in known)
    held = objects.history(common, MAX_COMMITS, ends=request.shallow) if common and not first else dict.fromkeys(common)
    cut = objects.boundary()
    ends = [name for name, at in wanted.items() if (at == depth or name in cut) and objects.links(name).parents]
    # A commit that is nearer by another way has its parents sent.
    shallow = tuple(name for name in ends if not set(objects.links(name).parents) <= wanted.keys())
    unshallow = tuple(
        name
        for name in sorted(request.shallow)
        if name in wanted and name not in shallow and objects.links(name).parents
    )
    if depth is None:
        unshallow = ()  # without `deepen`, what is shallow stays so
        wanted = _up_to(objects, request, known)
    base = common[0] if first and request.thin and len(request.wants) == 1 and common else None
    return Plan(
        wants=request.wants,
        send=tuple(name for name in wanted if name not in held),
        common=common,
        shallow=shallow,
        unshallow=unshallow,
        base=base,
        is_kept=first and len(request.wants) == 1 and len(common) <= 1,
    )


def _up_to(objects: StateObjects, request: Fetch, known: Mapping[str, int]) -> dict[str, int]:
    """Return the wants' history up to where the client says its own ends."""
    ends = [name for name in request.shallow if name in known]
    return objects.history(request.wants, MAX_COMMITS, ends=ends) if ends else dict(known)


class Packs:
    """Makes packs, and keeps those that devices ask for; for any number of threads."""

    def __init__(self, objects: StateObjects, cache_bytes: int = CACHE_BYTES) -> None:
        """Make packs of these objects, and keep up to `cache_bytes` of them."""
        self._objects = objects
        self._kept: SizedCache[tuple[object, ...], bytes] = SizedCache(cache_bytes, len)
        self.built = 0

    def kept(self, plan: Plan) -> bytes | None:
        """Return the pack of a plan where it is in memory."""
        return self._kept.get(_key(plan)) if plan.is_kept else None

    def build(self, plan: Plan) -> bytes:
        """Return the pack of a plan, made now.

        Raises:
            RefusedError: it would be larger than is served.
            StateTampered: an object is missing.
        """
        pack = self._build(plan)
        self.built += 1
        if plan.is_kept:
            self._kept.put(_key(plan), pack)
        return pack

    def _build(self, plan: Plan) -> bytes:
        known, bases = self._known(plan)
        entries: dict[str, bytes] = {}
        left = MAX_BYTES
        for commit in plan.send:
            links = [(commit, ""), *((link.id, f"/{link.path}") for link in self._objects.below(self._tree(commit)))]
            for name, path in links:
                if name in entries or name in known:
                    continue
                kind, content = self._objects.content(name)
                left -= len(content)
                if left < 0:
                    raise RefusedError("the history is larger than is served: ask for less with --depth")
                entries[name] = self._entry(kind, content, bases.get(path))
        return pack_bytes(entries.values())

    def _known(self, plan: Plan) -> tuple[set[str], dict[str, str]]:
        """Return the objects that the client has, and those of the base by their place."""
        known: set[str] = set(plan.common)
        bases: dict[str, str] = {}
        for commit in plan.common:
            links = self._objects.below(self._tree(commit))
            known.update(link.id for link in links)
            if commit == plan.base:
                bases = {"": commit, **{f"/{link.path}": link.id for link in links}}
        return known, bases

    def _tree(self, commit: str) -> str:
        return self._objects.links(commit).tree

    def _entry(self, kind: bytes, content: bytes, base: str | None) -> bytes:
        whole = pack_entry(kind, content)
        if base is None or len(content) > _LARGEST_DELTA:
            return whole
        base_kind, base_content = self._objects.content(base)
        if base_kind != kind or len(base_content) > _LARGEST_DELTA:
            return whole
        delta = b"".join(create_delta(base_content, content))
        entry = entry_header(_REF_DELTA, len(delta)) + bytes.fromhex(base) + zlib.compress(delta)
        return entry if len(entry) < len(whole) else whole


def _key(plan: Plan) -> tuple[object, ...]:
    return plan.wants, plan.common, plan.base

"""Publish the branches of some devices into a git repository of their own: a shard (docs/shards.md).

One state repo is written, so a device has one sequence of versions in all shards.

SHARD-1  A shard gets what a render moves for all (`fleet`, `trust`, freshness, checkpoints), and the branches of the
         devices of its sites: the same commits as in the state repo.
SHARD-2  A device that moves to a site of another shard gets a branch there. What a shard has once, it keeps, and gets
         new commits of: a device that still reads the old one misses nothing.
SHARD-3  All branches of a shard move, or none. What one run did not finish, the next one does.
SHARD-4  Nothing goes back: each branch of a shard must be in the history of the same branch of the state repo.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygit2

from margo_gitops.disk.files import replace_file
from margo_gitops.documents.fleet_kinds import Shard
from margo_gitops.documents.state_layout import (
    BRANCHES,
    DEVICE_REFS,
    FLEET_REF,
    FRESHNESS_REFS,
    carried_refs,
    is_remote,
)
from margo_gitops.errors import PublishDiffers, PublishGoesBack, StateMoved, listed
from margo_gitops.state_repo.remote import RemoteState
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class PublishedShard:
    """What a shard has now.

    Attributes:
        devices: how many of the fleet's devices are of its sites.
        moved: how many of its branches moved.
    """

    name: str
    url: str
    devices: int
    moved: int


class _ShardRepo(RemoteState):
    """A shard, and a mirror on this machine that has the state repo's objects without a copy (git's alternates)."""

    def __init__(self, url: str, cache: Path, state: Path) -> None:
        super().__init__(url, cache)
        self._state = state

    def _fetched(self) -> StateRepo:
        mirror = StateRepo.open_or_create(self.mirror)
        try:
            replace_file(mirror.folder / "objects/info/alternates", f"{self._state / 'objects'}\n".encode())
            if (self._state / "shallow").exists():  # the boundary of a checkpoint (D-32)
                replace_file(mirror.folder / "shallow", (self._state / "shallow").read_bytes())
        except OSError as error:
            raise self._unusable(error) from error
        return super()._fetched()


def _url(shard: Shard, root: Path, *, create: bool) -> str:
    if is_remote(shard.url):
        return shard.url
    folder = (root / shard.url).resolve()
    if create:
        StateRepo.open_or_create(folder)
    return f"file://{folder}"


def publish_shard(
    repo: StateRepo, shards: Mapping[str, Shard], name: str, root: Path, cache: Path, *, check: bool = False
) -> PublishedShard:
    """Bring a shard to what the state repo holds.

    Args:
        shards: all of the fleet.
        root: of the fleet repo.
        cache: a folder for mirrors.
        check: write nothing.

    Raises:
        StateTampered: the state repo does not hold what a renderer wrote, or the shard's history was rewritten.
        PublishGoesBack: the shard has commits that the state repo has not.
        PublishDiffers: with `check`: it is not what the state repo holds.
        StateMoved, StateUnreachable, StateRepoUnusable: the shard cannot be read or written.
    """
    values = carried_refs(repo.refs.read())
    for tampered in repo.tampered(values):
        raise tampered
    devices = _devices_of(repo, values, shards, name)
    remote = _ShardRepo(_url(shards[name], root, create=not check), cache / "shards", repo.folder)
    try:
        mirror = remote.fetch()
        there = carried_refs(mirror.refs.read())
        wanted = {
            ref: value
            for ref, value in values.items()
            if not ref.startswith(DEVICE_REFS) or ref in there or ref.removeprefix(DEVICE_REFS) in devices
        }
        _refuse_ahead(mirror, there, values, remote.url)
        moves: dict[str, str | None] = {ref: value for ref, value in wanted.items() if there.get(ref) != value}
        moves.update((ref, None) for ref in there.keys() - values.keys())  # statements of freshness (STATEMENT-4)
        if check and (moves or remote.is_unfinished):
            raise PublishDiffers(
                f"the shard {name} is not what the state repo holds",
                why=listed(sorted(ref.removeprefix(BRANCHES) for ref in moves)),
                remedy="run `margo-gitops publish --shards`",
            )
        if FLEET_REF in values and (moves or remote.is_unfinished):
            mirror.refs.move(moves, mirror.refs.read())
            remote.push()
        return PublishedShard(name, remote.url, len(devices), len(moves))
    except StateMoved as error:
        error.remedy = "publish again"
        raise
    finally:
        remote.release()


def _devices_of(repo: StateRepo, values: Mapping[str, str], shards: Mapping[str, Shard], name: str) -> frozenset[str]:
    """Return the devices of a shard, as the state repo names them; those that left the fleet are of no site."""
    sites = set(shards[name].sites)
    others = {site for shard in shards.values() for site in shard.sites}
    found = set()
    for encoded, place in repo.places(values).items():
        site = None if place.left else place.site
        if site in sites or (not sites and site not in others):
            found.add(encoded)
    return frozenset(found)


def _refuse_ahead(mirror: StateRepo, there: Mapping[str, str], values: Mapping[str, str], url: str) -> None:
    repository = pygit2.Repository(str(mirror.folder))
    ahead = [
        ref
        for ref, value in there.items()
        if not ref.startswith(FRESHNESS_REFS)
        and value != values.get(ref)
        and not (ref in values and repository.descendant_of(values[ref], value))
    ]
    if ahead:
        raise PublishGoesBack(
            f"{url} has commits that the state repo has not",
            why=listed(sorted(ahead)),
            remedy="find out who wrote them; if the state repo lost them: margo-gitops state restore",
        )

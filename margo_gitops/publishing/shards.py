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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.documents.fleet_kinds import Shard
from margo_gitops.documents.state_layout import (
    BRANCHES,
    DEVICE_REFS,
    FLEET_REF,
    FRESHNESS_REFS,
    STATE_BRANCHES,
    carried_refs,
)
from margo_gitops.errors import PublishDiffers, PublishGoesBack, PublishTargetUnusable, StateMoved, listed
from margo_gitops.git_program import last_lines
from margo_gitops.state_repo.refs import Refs
from margo_gitops.state_repo.remote import RemoteState, is_remote
from margo_gitops.state_repo.state_repo import StateRepo

_SOURCE: Final = "refs/source/"


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
    """A shard, and its mirror on this machine."""

    def take(self, folder: Path) -> Mapping[str, str]:
        """Bring everything of a state repo into the mirror but what devices reported; return its branches.

        Raises:
            StateUnreachable, StateRepoUnusable: it cannot be read.
        """
        names = [each.name for each in STATE_BRANCHES if not each.reported]
        refspecs = [f"+{name}*:{_SOURCE}{name.removeprefix(BRANCHES)}*" for name in names]
        options = ("--prune", "--no-tags", "--no-write-fetch-head", "--update-shallow", "--refmap=")
        result = self._git("fetch", *options, "state", *refspecs, url=str(folder))
        if result.returncode:
            raise PublishTargetUnusable(
                f"the state repo cannot be read for the shard {self.url}", why=last_lines(result.stderr)
            )
        values = Refs(self.mirror).read()
        return {BRANCHES + ref.removeprefix(_SOURCE): value for ref, value in values.items() if ref.startswith(_SOURCE)}


def _opened(shard: Shard, root: Path, cache: Path, *, create: bool) -> _ShardRepo:
    if is_remote(shard.url):
        return _ShardRepo(shard.url, cache)
    folder = (root / shard.url).resolve()
    if create:
        StateRepo.open_or_create(folder)
    return _ShardRepo(f"file://{folder}", cache)


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
    for tampered in repo.tampered(repo.refs.read()):
        raise tampered
    remote = _opened(shards[name], root, cache / "shards", create=not check)
    try:
        mirror = remote.fetch()
        there, values = carried_refs(mirror.refs.read()), remote.take(repo.folder)
        devices = _devices_of(mirror, values, shards, name)
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

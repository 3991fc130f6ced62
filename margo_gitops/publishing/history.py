"""Publish the state repo itself into a bucket, for servers that follow it (`state_repo/history_bundles`).

SEND-1  Only what changed since the last time is sent. When the bundles of changes are many or large, a whole one
        follows them, so that a new server does not fetch them all.
SEND-2  Nothing goes back: the bucket's state must be in the state repo's history. History is never replaced there.
SEND-3  A bundle that no list names stays for the grace period, and at least an hour: another publisher may have sent it
        and not written its list yet.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Final

import pygit2

from margo_gitops.digests import Digest
from margo_gitops.documents.declarations import Wire
from margo_gitops.documents.state_layout import FLEET_REF, carried_refs
from margo_gitops.errors import (
    InvalidDocument,
    PublishBusy,
    PublishGoesBack,
    PublishTargetUnusable,
    StateRepoUnusable,
    UnreadableDocument,
)
from margo_gitops.git_program import last_lines, run_git
from margo_gitops.progress import is_heard
from margo_gitops.state_repo.bucket import Bucket, HeldObject, ObjectMoved
from margo_gitops.state_repo.history_bundles import (
    FOLDER,
    LIST_KEY,
    MAX_LIST_BYTES,
    MOST_BUNDLES,
    History,
    HistoryBundle,
    bundle_refs,
    read_history,
    refs_digest,
    write_history,
)
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.values import dataclass

_SHORTEST_SECONDS: Final = 3600.0
_TIMEOUT_SECONDS: Final = 3600
_OURS: Final = ("-c", "pack.packSizeLimit=0")


@dataclass(frozen=True, slots=True)
class PublishedHistory:
    """What was sent.

    Attributes:
        moved: how many branches moved.
        sent: bytes of bundles.
        bundles: how many the list names now.
        collected: how many were removed.
    """

    moved: Annotated[int, Wire("branchesMoved")]
    sent: Annotated[int, Wire("bytesSent")]
    bundles: int
    collected: Annotated[int, Wire("bundlesCollected")]


def publish_history(
    repo: StateRepo, bucket: Bucket, keep: float, clock: Callable[[], float] = time.time
) -> PublishedHistory:
    """Bring the bucket to what the state repo holds.

    Args:
        keep: seconds for which bundles stay that the list does not name any more.
        clock: returns seconds since 1970.

    Raises:
        PublishBusy: another publisher was faster.
        PublishGoesBack: the bucket has a state that is not in the history of this state repo.
        PublishTargetUnusable: the bucket refuses.
        StateRepoUnusable: git cannot read the state repo, or it moved meanwhile.
        StateTampered: the state repo does not hold what a renderer wrote.
    """
    refs, seen = _refs(repo), bucket.get(LIST_KEY, MAX_LIST_BYTES)
    held = _read(bucket, seen)
    if held is not None and held.refs == refs_digest(refs):
        return PublishedHistory(0, 0, len(held.bundles), _collect(bucket, held, keep, clock()))
    known = _published(bucket, held) if held is not None else {}
    moved = {name for name, value in refs.items() if known.get(name) != value}
    made = []
    with tempfile.TemporaryDirectory(prefix="margo-gitops-") as folder:
        for path, bundle in _bundles(repo, refs, known, held, Path(folder)):
            with path.open("rb") as file:
                bucket.upload(bundle.key, file, bundle.digest)
            made.append(bundle)
    # A whole one that builds on nothing published replaces all.
    earlier = held.bundles if held is not None and not made[0].whole else ()
    history = History(refs_digest(refs), (*earlier, *made)[-MOST_BUNDLES:])
    try:
        bucket.replace(LIST_KEY, write_history(history), seen.tag if seen is not None else None)
    except ObjectMoved:
        raise PublishBusy(
            "another publisher was faster: its history stays",
            where=bucket.where,
            remedy="publish again",
        ) from None
    collected = _collect(bucket, history, keep, clock())
    return PublishedHistory(len(moved), sum(each.size for each in made), len(history.bundles), collected)


def history_differences(repo: StateRepo, bucket: Bucket) -> list[str]:
    """Return how the bucket's history differs from the state repo; empty: not at all.

    Raises:
        PublishTargetUnusable: the bucket refuses.
        StateTampered: the state repo does not hold what a renderer wrote.
    """
    refs = _refs(repo)
    held = _read(bucket, bucket.get(LIST_KEY, MAX_LIST_BYTES))
    if held is None:
        return ["no history is published"]
    known = _published(bucket, held)
    found = [
        f"{name}: published {known.get(name, 'nothing')}, the state repo has {refs.get(name, 'nothing')}"
        for name in sorted(refs.keys() | known.keys())
        if refs.get(name) != known.get(name)
    ]
    sizes = bucket.keys(FOLDER)
    return [*found, *(f"{each.key} is missing" for each in held.bundles if each.key.removeprefix(FOLDER) not in sizes)]


def _refs(repo: StateRepo) -> dict[str, str]:
    values = repo.refs.read()
    for error in repo.tampered(values):
        raise error
    if FLEET_REF not in values:
        raise StateRepoUnusable("nothing is rendered yet", remedy="render first: margo-gitops render")
    return carried_refs(values)


def _read(bucket: Bucket, seen: HeldObject | None) -> History | None:
    if seen is None:
        return None
    try:
        return read_history(seen.content, LIST_KEY)
    except (InvalidDocument, UnreadableDocument) as error:
        raise _damaged(bucket, error) from error


def _damaged(bucket: Bucket, error: Exception) -> PublishTargetUnusable:
    return PublishTargetUnusable(
        "another program changed the published history",
        where=bucket.where,
        why=[str(error)],
        remedy=f"remove {LIST_KEY} there, then publish again: the whole history is sent",
    )


def _published(bucket: Bucket, held: History) -> dict[str, str]:
    """Return where the bucket's branches are, from the headers of its bundles."""
    known: dict[str, str] = {}
    try:
        for each in held.since_whole():
            header = bucket.get_start(each.key, each.header)
            known |= bundle_refs(header.splitlines(keepends=True))
    except ValueError as error:
        raise _damaged(bucket, error) from error
    if refs_digest(known) != held.refs:
        raise _damaged(bucket, ValueError("the bundles give other branches than the list says"))
    return known


def _bundles(
    repo: StateRepo, refs: Mapping[str, str], known: Mapping[str, str], held: History | None, folder: Path
) -> Iterator[tuple[Path, HistoryBundle]]:
    """Yield the bundles that bring the bucket from what is known there to these refs, oldest first (SEND-1)."""
    moved = {name: value for name, value in refs.items() if known.get(name) != value}
    before = {known[name] for name in (*moved, FLEET_REF) if name in known}
    if FLEET_REF in known and not _builds_on(repo, refs[FLEET_REF], known[FLEET_REF]):
        raise PublishGoesBack(
            "the bucket has a state that is not in this history: nothing was published",
            why=[f"{FLEET_REF} is at {known[FLEET_REF]} there, and at {refs[FLEET_REF]} here"],
            remedy="restore the state repo to its newest state: margo-gitops state restore",
        )
    change = None
    if known.keys() <= refs.keys() and before and _has_all(repo, before):
        change = _bundle(repo, folder / "change", moved, before)
    if change is not None and held is not None:
        yield folder / "change", change
        whole, *changes = held.since_whole()
        if len(changes) < MOST_BUNDLES // 2 and sum(each.size for each in (*changes, change)) < whole.size:
            return
    if repo.objects.shallow.exists():
        raise StateRepoUnusable(
            "a bucket needs the whole history, and here it ends at a checkpoint",
            remedy="publish from a repository into which the archives were fetched (docs/state-repo.md, Old history)",
        )
    every = _bundle(repo, folder / "whole", refs, ())
    if every is None:
        raise StateRepoUnusable("the state repo moved while it was published", remedy="publish again")
    yield folder / "whole", every


def _builds_on(repo: StateRepo, new: str, old: str) -> bool:
    repository = pygit2.Repository(str(repo.folder))
    return new == old or (old in repository and repository.descendant_of(new, old))


def _has_all(repo: StateRepo, commits: Iterable[str]) -> bool:
    repository = pygit2.Repository(str(repo.folder))
    return all(each in repository for each in commits)


def _bundle(repo: StateRepo, path: Path, refs: Mapping[str, str], before: Iterable[str]) -> HistoryBundle | None:
    """Make a bundle of refs, without what these commits lead to; None where git leaves a ref out, or one moved."""
    told = "--progress" if is_heard() else "--quiet"
    given = "".join(f"{line}\n" for line in (*refs, *(f"^{each}" for each in before)))
    try:
        done = run_git(
            ["--git-dir", str(repo.folder), *_OURS, "bundle", "create", told, str(path), "--stdin"],
            seconds=_TIMEOUT_SECONDS,
            variables={"LC_ALL": "C"},
            given=given,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise StateRepoUnusable("git cannot make a bundle", why=[str(error)], remedy="install git") from error
    if "empty bundle" in done.stderr:
        return None
    if done.returncode:
        raise StateRepoUnusable(
            f"git cannot make a bundle of {repo.folder}",
            why=last_lines(done.stderr),
            remedy="see what git says: git fsck; and that the folder for temporary files has room (TMPDIR)",
        )
    with path.open("rb") as file:
        found = bundle_refs(file)
        header = file.tell()
        file.seek(0)
        digest = Digest(f"sha256:{file_digest(file, 'sha256').hexdigest()}")
    if found != refs:
        return None
    return HistoryBundle(digest, path.stat().st_size, header, whole=not before)


def _collect(bucket: Bucket, history: History, keep: float, now: float) -> int:
    used = {each.key for each in history.bundles} | {LIST_KEY}
    written = {f"{FOLDER}{key}": moment for key, moment in bucket.keys(FOLDER).items()}
    gone = [key for key, moment in written.items() if key not in used and now - moment > max(keep, _SHORTEST_SECONDS)]
    for key in gone:
        bucket.delete(key)
    return len(gone)

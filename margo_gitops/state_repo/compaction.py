"""Let old history end at a signed checkpoint, and take it out of the repository (D-32).

COMPACT-1  No commit is rewritten. A commit at the boundary still names its parent, so the chain is unbroken: by ids
           from the tip to the boundary, from there by the signature of a checkpoint, and by the archive for everyone
           who wants the bytes.
COMPACT-2  The order is: the archive is on the disk; the checkpoint names its digest and the boundary; git's file
           `shallow` holds the boundary; what is behind it is removed. A run that was killed has lost nothing, and the
           next one continues: what it finds of a step, it makes again or completes.
COMPACT-3  Only a boundary that an expected key signed is carried out.
COMPACT-4  What is new is never removed: a pack of a render or a push has a `.keep` until its refs moved, a server that
           commits reports waits, and loose objects stay for a day. A reader that finds a pack gone looks again
           (REPACK-2).
COMPACT-5  An archive is a git bundle, and starts where the one before it ended. All of them, and the repository, are
           the whole history.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, replace_file, sync_folder
from margo_gitops.disk.folders import remove_tree
from margo_gitops.disk.locks import HeldLock, LockTaken, take_lock
from margo_gitops.documents.state_layout import BOUNDARY_FILE, CHECKPOINTS_REF, DEVICE_REFS, FLEET_REF, REPORTS_REF
from margo_gitops.errors import StateMoved, StateRepoUnusable, StateTampered
from margo_gitops.git_program import last_lines, run_git
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.refs import Refs
from margo_gitops.state_repo.repacking import REPACK_LOCK
from margo_gitops.state_repo.report_branch import COMPACT_LOCK
from margo_gitops.state_repo.reported import Reports
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_commit import GitCommit, Ident, build_commit, sign_commit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, TREE, TreeEntry, tree_bytes
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass

ARCHIVE_TRAILER: Final = "Archive"
_COMMITTER: Final = ("margo-gitops", "compact@margo-gitops.invalid")
_TIMEOUT_SECONDS: Final = 6 * 3600
_LOOSE_STAY: Final = "1.day.ago"
_STALE_LOCK_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A commit of the branch `checkpoints`.

    Attributes:
        id: of the commit.
        commit: the commit; who signed it is for the caller to judge.
        archive: digest of the bundle that holds what was cut.
    """

    id: str
    commit: GitCommit
    archive: str


def checkpoints(objects: StateObjects, refs: Mapping[str, str]) -> list[Checkpoint]:
    """Return all checkpoints, oldest first (StateTampered: one of them cannot be read)."""
    tip = refs.get(CHECKPOINTS_REF)
    read = [(name, objects.commit(name)) for name in (objects.branch(tip) if tip else ())]
    return [Checkpoint(name, commit, commit.trailers.get(ARCHIVE_TRAILER, "")) for name, commit in read]


def choose_boundary(objects: StateObjects, refs: Mapping[str, str], latest: float) -> dict[str, str]:
    """Return the oldest commit that stays of each branch; empty where nothing is cut, now or before.

    The state that was in force at a time stays, and all that came after it. The order of commits counts, as in an
    audit.

    Args:
        latest: the time, seconds since the epoch.
    """
    if FLEET_REF not in refs:
        return {}
    fleet = objects.branch(refs[FLEET_REF])
    at = _newest(fleet, lambda name: objects.commit(name).committed_at <= latest)
    found = {FLEET_REF: fleet[at]}
    before, ended = frozenset(fleet[: at + 1]), objects.boundary()
    for ref in refs:
        if ref.startswith(DEVICE_REFS):
            branch = objects.branch(refs[ref])
            in_force = (each for each in reversed(branch) if _brought(objects, each) in before or each in ended)
            found[ref] = next(in_force, branch[0])
    if REPORTS_REF in refs:
        reports, branch = Reports(objects), objects.branch(refs[REPORTS_REF])
        found[REPORTS_REF] = branch[_newest(branch, lambda name: reports.commit(name).time <= latest)]
    return found if any(objects.links(name).parents for name in found.values()) else {}


def _newest(branch: Sequence[str], wanted: Callable[[str], bool]) -> int:
    return next((at for at in range(len(branch) - 1, 0, -1) if wanted(branch[at])), 0)


def _brought(objects: StateObjects, name: str) -> str:
    return StateCommit.of(objects.commit(name)).state_commit or ""


class Compaction:
    """The steps of a compaction of one state repo, in their order (COMPACT-2); no other one runs meanwhile."""

    def __init__(self, repo: StateRepo) -> None:
        """Take the repository.

        Raises:
            StateMoved: another process compacts it, or merges its packs.
            StateRepoUnusable: the file system refuses.
        """
        self.repo = repo
        self._lock = _taken(repo.folder / REPACK_LOCK, 0)

    def release(self) -> None:
        """Let other processes merge packs."""
        self._lock.release()

    def archive(self, boundary: Mapping[str, str], file: Path) -> Digest:
        """Write what will be cut, and the commits at the boundary, as a git bundle; return its digest (COMPACT-5).

        Raises:
            StateRepoUnusable: git or the disk refuses.
        """
        ended = self.repo.objects.boundary()
        moved = {ref: name for ref, name in boundary.items() if name not in ended}
        # No other compaction of this repository is at work: what has this name was left by one that was killed.
        prefix = f".margo-gitops-{hashlib.sha256(bytes(self.repo.folder.resolve())).hexdigest()[:12]}-"
        try:
            for left in file.parent.iterdir() if file.parent.is_dir() else ():
                if left.name.startswith(prefix):
                    remove_tree(left)
            with _repository_beside(self.repo.folder, file.parent, prefix) as beside:
                unfinished = beside / "bundle"
                Refs(beside).reset("refs/", moved)
                (beside / "shallow").write_bytes(_shallow(self.repo.objects, ended))
                without = "".join(f"^{name}\n" for name in sorted(ended))
                _git(beside, "bundle", "create", "--quiet", str(unfinished), "--all", "--stdin", given=without)
                with unfinished.open("rb") as written:
                    digest = hashlib.file_digest(written, "sha256").hexdigest()
                    os.fsync(written.fileno())
                unfinished.replace(file)
            sync_folder(file.parent)
        except OSError as error:
            raise StateRepoUnusable(
                f"the archive {file} cannot be written",
                why=[str(error)],
                remedy="nothing was cut; name another --archive",
            ) from error
        return Digest(f"sha256:{digest}")

    def checkpoint(
        self, boundary: Mapping[str, str], archive: str, key: SigningKey, moment: int, refs: Mapping[str, str]
    ) -> str:
        """Write the signed checkpoint, and return its id.

        Args:
            moment: the time, seconds since the epoch.
            refs: all refs, as they were when the boundary was chosen.

        Raises:
            StateMoved: another process made a checkpoint.
            StateRepoUnusable: the file system refuses.
        """
        objects = self.repo.objects
        fleet = StateCommit.of(objects.commit(boundary[FLEET_REF])).fleet
        lines = "".join(f"{name} {ref}\n" for ref, name in sorted(boundary.items()))
        trailers = StateCommit(state_commit=boundary[FLEET_REF], fleet=fleet).text() + f"{ARCHIVE_TRAILER}: {archive}\n"
        who = Ident(*_COMMITTER, moment, 0)
        pack, before = ObjectPack(), refs.get(CHECKPOINTS_REF)
        tree = pack.add(
            TREE, tree_bytes([TreeEntry(BOUNDARY_FILE.encode(), FILE_MODE, pack.add(BLOB, lines.encode()))])
        )
        raw = build_commit(tree, [before] if before else [], who, who, f"End history here\n\n{trailers}")
        made = pack.add(COMMIT, sign_commit(raw, key))
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self.repo.publish(pack, {CHECKPOINTS_REF: made}, refs)
            except StateMoved:  # most often a render writes its refs, which takes milliseconds
                if time.monotonic() >= end or self.repo.refs.read().get(CHECKPOINTS_REF) != before:
                    raise
                time.sleep(0.05)
            else:
                return made

    def cut(self, key: SigningKey, signers: AllowedSigners | None) -> None:
        """Carry out the newest checkpoint: set git's boundary, then remove what is behind it (COMPACT-3, COMPACT-4).

        Without a checkpoint nothing is done; a second call changes nothing.

        Args:
            key: who may have signed the checkpoint where there is no list.
            signers: who may have signed it.

        Raises:
            SignerUnknown, SignatureMissing, SignatureInvalid, StateTampered: it is not to be believed.
            StateMoved: another program holds a lock for long.
            StateRepoUnusable: git or the disk refuses.
        """
        objects = self.repo.objects
        tip = self.repo.refs.read().get(CHECKPOINTS_REF)
        if tip is None:
            return
        signed = commit_signer(objects.commit(tip), signers)
        signed.required()
        if signers is None and signed.key != key.public:
            raise StateTampered(
                f"the checkpoint {tip} is signed with another key",
                why=[f"it is signed by {signed.signer}"],
                remedy="find out who made it; if you know the key, pass a list of it with --allowed-signers",
            )
        self._write_shallow(_shallow(objects, objects.boundary_of(tip)))
        graph = self.repo.folder / "objects" / "info" / "commit-graph"  # git makes no other one where history is cut
        graph.unlink(missing_ok=True)
        remove_tree(graph.with_name("commit-graphs"))
        with _taken(self.repo.folder / COMPACT_LOCK, _WAIT_SECONDS):
            settings = ("-c", "pack.threads=1", "-c", "pack.packSizeLimit=0", "-c", "repack.useDeltaBaseOffset=true")
            _git(self.repo.folder, *settings, "repack", "-a", "-d", "-l", "-n", "-q", "--write-bitmap-index")
            _git(self.repo.folder, "prune", f"--expire={_LOOSE_STAY}")

    def _write_shallow(self, content: bytes) -> None:
        shallow = self.repo.objects.shallow
        try:
            if shallow.exists() and shallow.read_bytes() == content:
                return
            lock = shallow.with_name("shallow.lock")  # git's own, which it holds for milliseconds
            if lock.exists() and time.time() - lock.stat().st_mtime > _STALE_LOCK_SECONDS:
                lock.unlink()
            lock.touch(exist_ok=False)
            try:
                replace_file(shallow, content, mode=0o644)
            finally:
                lock.unlink()
        except FileExistsError as error:
            raise StateMoved(
                "another program writes the file `shallow`", remedy="run this again in a minute"
            ) from error
        except OSError as error:
            raise StateRepoUnusable(
                f"{shallow} cannot be written", why=[str(error)], remedy="run this again"
            ) from error


def _shallow(objects: StateObjects, boundary: Iterable[str]) -> bytes:
    """Return the content of git's file `shallow`: the commits at a boundary from which something is cut."""
    return "".join(f"{name}\n" for name in sorted(boundary) if objects.links(name).parents).encode()


@contextmanager
def whole_history(folder: Path, archives: Sequence[Path], beside: Path) -> Iterator[Path]:
    """Yield a repository with the refs of a state repo and its whole history; it is removed afterwards (COMPACT-5).

    Args:
        archives: the bundle of every checkpoint, oldest first.
        beside: a folder for it.

    Raises:
        StateRepoUnusable: git or the disk refuses.
    """
    with _repository_beside(folder, beside) as whole:
        for archive in archives:
            _git(whole, "bundle", "unbundle", str(archive.absolute()))
        Refs(whole).reset("refs/", dict(Refs(folder).read().items()))
        yield whole


def digest_of(file: Path) -> str:
    """Return the digest of a file (OSError: it cannot be read)."""
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


@contextmanager
def _repository_beside(folder: Path, place: Path, prefix: str = ".margo-gitops-") -> Iterator[Path]:
    """Yield an empty repository that reads the objects of another one."""
    with ExitStack() as stack:
        with disk_errors(place, what="no folder can be made there", error=StateRepoUnusable, remedy="make room"):
            place.mkdir(parents=True, exist_ok=True)
            beside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=place)))
            try:
                pygit2.init_repository(str(beside), bare=True)
            except pygit2.GitError as error:  # most often the disk is full
                why = [str(error)]
                raise StateRepoUnusable(f"no repository can be made in {place}", why=why, remedy="make room") from error
            (beside / "objects" / "info").mkdir(exist_ok=True)
            (beside / "objects" / "info" / "alternates").write_text(f"{(folder / 'objects').resolve()}\n")
        yield beside


def _taken(path: Path, seconds: float) -> HeldLock:
    end = time.monotonic() + seconds
    while True:
        try:
            path.touch()
            with suppress(PermissionError):
                path.chmod(0o666)  # a server of another user takes it too
            return take_lock(path, named=False)
        except LockTaken:
            if time.monotonic() >= end:
                raise StateMoved(
                    f"another process works with the packs of {path.parent}", remedy="run this again when it is done"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise StateRepoUnusable(f"{path} cannot be written", why=[str(error)]) from error


def _git(folder: Path, *arguments: str, given: str = "", tries: int = 5) -> None:
    try:
        done = run_git(
            ["--git-dir", str(folder), *arguments], seconds=_TIMEOUT_SECONDS, variables={"LC_ALL": "C"}, given=given
        )
    except FileNotFoundError:
        raise StateRepoUnusable("the git program is missing", remedy="install git") from None
    except subprocess.TimeoutExpired:
        raise StateRepoUnusable(f"git did not finish within {_TIMEOUT_SECONDS} s", remedy="run this again") from None
    if done.returncode and tries and "shallow file has changed" in done.stderr:  # a `git gc` wrote it anew
        _git(folder, *arguments, given=given, tries=tries - 1)
        return
    if done.returncode:
        raise StateRepoUnusable(
            f"git {next(each for each in arguments if each.isalpha())} failed in {folder}",
            why=last_lines(done.stderr),
            remedy="nothing that a branch leads to was removed; run this again when the reason is gone",
        )

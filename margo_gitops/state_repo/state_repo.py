"""The state repo on disk: what was rendered before, and whether it is still what was rendered."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pygit2

from margo_gitops.disk.files import umask
from margo_gitops.documents.device_id import decode_device_id
from margo_gitops.documents.state_layout import BRANCHES, DEVICE_REFS, FLEET_REF, LEFT_FOLDER, device_ref
from margo_gitops.errors import SignatureInvalid, StateRepoUnusable, StateTampered
from margo_gitops.git_program import format_remedy
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.objects import DevicePlace, DeviceTree, StateObjects
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.git_objects import COMMIT
from margo_gitops.trust.ssh_signature import SshSignature, parse_signature

_PUT_BACK = "find out who moved it, put the branch back to the renderer's last commit, protect it"


def device_of(encoded: str) -> str:
    """Return the device that a folder of the fleet branch is about (StateTampered: no render wrote it)."""
    try:
        return decode_device_id(encoded)
    except ValueError as error:
        raise StateTampered(
            f"the fleet branch holds a folder {encoded}, which no render wrote", why=[str(error)], remedy=_PUT_BACK
        ) from error


def _create(folder: Path) -> None:
    """Make an empty repository next to its place and move it there: a crash leaves no half of one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pygit2.init_repository(str(fresh), bare=True, initial_head=FLEET_REF.removeprefix(BRANCHES))
        fresh.chmod(0o777 & ~umask())
        fresh.replace(folder)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        # Another renderer may have made it in the meantime.
        if not (isinstance(error, OSError) and (folder / "HEAD").exists()):
            raise


class StateRepo:
    """A bare repository with the branch `fleet` and one branch per device; StateTampered for what no render wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refs = Refs(folder)
        self.objects = StateObjects(folder)
        self.has_written = False
        """Whether `publish` added objects, so that there may be packs to merge."""

    @classmethod
    def open(cls, folder: Path) -> StateRepo:
        """Return the state repo in a folder (StateRepoUnusable: it is missing, or its format cannot be written)."""
        try:
            repository = pygit2.Repository(str(folder))
        except pygit2.GitError as error:
            if not folder.exists():
                remedy = "the first render makes it: margo-gitops render; if it is elsewhere, name it with --state-repo"
            elif unsupported := format_remedy(str(error)):
                remedy = unsupported
            elif "not owned by current user" in str(error):
                remedy = f"if you trust it: git config --global --add safe.directory {folder}"
            elif not os.access(folder, os.R_OK | os.X_OK):
                remedy = "see that you may read this folder"
            elif "OID at line" in str(error):
                remedy = "git's file `shallow` is damaged: remove it, then run margo-gitops state compact"
            elif (folder / "HEAD").exists() or (folder / "refs").exists():
                remedy = "this repository is damaged: restore it from its remote or a backup"
            else:
                remedy = "name another folder with --state-repo, or remove this one if nothing in it is needed"
            raise StateRepoUnusable(f"there is no state repo at {folder}", why=[str(error)], remedy=remedy) from error
        if not repository.is_bare:
            raise StateRepoUnusable(
                f"{folder} has a work tree: a state repo is bare, because only the renderer writes it",
                remedy="name another folder with --state-repo",
            )
        return cls(Path(repository.path))

    @classmethod
    def open_or_create(cls, folder: Path) -> StateRepo:
        """Return the state repo in a folder; make an empty one where there is nothing.

        Raises:
            StateRepoUnusable: something else is there, or it cannot be made.
        """
        try:
            if not folder.exists() or not any(folder.iterdir()):
                _create(folder)
        except (OSError, pygit2.GitError) as error:
            remedy = "name another folder with --state-repo, or make room there"
            raise StateRepoUnusable(
                f"no state repo can be made at {folder}", why=[str(error)], remedy=remedy
            ) from error
        return cls.open(folder)

    def publish(self, pack: ObjectPack, moves: Mapping[str, str | None], expected: Mapping[str, str]) -> None:
        """Make a pack's objects part of the repository, and move refs to them: all or none.

        Args:
            moves: new object id by full name; None removes the ref.
            expected: what all refs were when the moves were computed.

        Raises:
            StateMoved: a ref has another value than expected, or another writer holds the lock; no ref was moved.
            StateRepoUnusable: the file system refuses; no ref was moved.
        """
        try:
            with pack.written(self.folder / "objects" / "pack"):
                self.refs.move(moves, expected)
            self.has_written = True
        except OSError as error:
            raise StateRepoUnusable(
                f"the objects cannot be written to {self.folder}",
                why=[str(error)],
                remedy="nothing was changed; see that the disk is not full and the folder is yours, then render again",
            ) from error

    def held(self, device: str, values: Mapping[str, str]) -> DeviceTree | None:
        """Return what a device's branch holds.

        Args:
            device: the client's id.
            values: all refs, as `refs.read` returned them.
        """
        name = values.get(device_ref(device))
        if name is None:
            return None
        held = DeviceTree(self.objects, self.objects.links(name).tree)
        try:
            held.manifest  # noqa: B018  # a branch without one is named here, with its device
        except StateTampered as error:
            error.device = device
            raise
        return held

    def signature(self, device: str, values: Mapping[str, str]) -> SshSignature | None:
        """Return the signature of a device's latest commit, not verified; None where it has none that can be read."""
        name = values.get(device_ref(device))
        raw = self.objects.read(name, COMMIT) if name else b""
        if b"\ngpgsig " not in raw:
            return None
        try:
            return parse_signature(parse_commit(raw).signature or "")
        except (ValueError, SignatureInvalid):
            return None

    def places(self, values: Mapping[str, str]) -> Mapping[str, DevicePlace]:
        """Return where the fleet branch holds each device, by encoded device id; empty before the first render."""
        name = values.get(FLEET_REF)
        return self.objects.kept("places", self.objects.links(name).tree, self.objects.places) if name else {}

    def device_count(self, values: RefValues) -> int:
        """Return how many devices the fleet branch holds, without those that left, where it is as a render left it."""
        root = self.objects.links(values[FLEET_REF]).tree if FLEET_REF in values else None
        left = self.objects.child(root, LEFT_FOLDER) if root else None
        return values.below(DEVICE_REFS) - (len(list(self.objects.tree(left))) if left else 0)

    def folders(self, values: Mapping[str, str]) -> Iterator[str]:
        """Yield the id of everything above the devices in the fleet branch."""
        if FLEET_REF in values:
            yield from self.objects.folders(self.objects.links(values[FLEET_REF]).tree)

    def tampered(self, values: Mapping[str, str], only: Collection[str] | None = None) -> Iterator[StateTampered]:
        """Yield every device branch that does not hold what the fleet branch says it holds, and a fleet branch lost.

        Args:
            only: the encoded ids of the devices to look at; None: all.
        """
        branches = {name for name in values if name.startswith(DEVICE_REFS)}
        if only is not None and FLEET_REF in values:
            branches &= {f"{DEVICE_REFS}{encoded}" for encoded in only}
        if FLEET_REF not in values:
            if branches:
                yield StateTampered(
                    f"{FLEET_REF} is gone, and {len(branches)} device branches are there",
                    why=[f"one of them is {min(branches)}"],
                    remedy=_PUT_BACK,
                )
            return
        places = self.places(values)
        for encoded in places if only is None else places.keys() & only:
            place = places[encoded]
            ref = f"{DEVICE_REFS}{encoded}"
            branches.discard(ref)
            name = values.get(ref)
            found = self.objects.links(name).tree if name else None
            if found != place.tree:
                yield StateTampered(
                    f"{ref} is not what the fleet branch holds at {place.folder}/{encoded}",
                    device=device_of(encoded),
                    why=[
                        f"its commit {name} has the tree {found}" if name else "the branch is gone",
                        f"the fleet branch's commit {values[FLEET_REF]} has the tree {place.tree}",
                    ],
                    remedy=_PUT_BACK,
                )
        for ref in sorted(branches):
            yield StateTampered(
                f"{ref} is a branch that no render made", why=[f"it is at {values[ref]}"], remedy=_PUT_BACK
            )

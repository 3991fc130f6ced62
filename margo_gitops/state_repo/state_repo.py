"""The state repo on disk: what was rendered before, and whether it is still what was rendered."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pygit2

from margo_gitops.documents.device_id import decode_device_id
from margo_gitops.documents.state_layout import (
    BRANCHES,
    DEPLOYMENTS_FOLDER,
    DEVICE_REFS,
    DEVICES_FOLDER,
    FLEET_REF,
    LEFT_FOLDER,
    MANIFEST_FILE,
    deployment_path,
    device_ref,
)
from margo_gitops.errors import SignatureInvalid, StateRepoUnusable, StateTampered
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.ssh_signature import SshSignature, parse_signature

_PUT_BACK = "find out who moved it, put the branch back to the renderer's last commit, protect it"


@dataclass(frozen=True, slots=True)
class HeldDevice:
    """A device's state as a commit of its branch holds it.

    Attributes:
        commit: id of the commit.
        tree: id of its tree.
        manifest: bytes of its manifest.
    """

    commit: str
    tree: str
    manifest: bytes
    _tree: pygit2.Tree = field(repr=False)

    def deployment(self, deployment_id: str) -> bytes | None:
        """Return a deployment document's bytes; None where there is none of this id."""
        blob = _child(self._tree, deployment_path(deployment_id))
        return bytes(blob.data) if isinstance(blob, pygit2.Blob) else None

    def object_ids(self) -> list[str]:
        """Return the ids of the deployment documents."""
        folder = _child(self._tree, DEPLOYMENTS_FOLDER)
        return [str(blob.id) for blob in (folder if isinstance(folder, pygit2.Tree) else ())]


def device_of(encoded: str) -> str:
    """Return the device that a folder of the fleet branch is about.

    Raises:
        StateTampered: none: no render wrote it.
    """
    try:
        return decode_device_id(encoded)
    except ValueError as error:
        raise StateTampered(
            f"the fleet branch holds a folder {encoded}, which no render wrote", why=[str(error)], remedy=_PUT_BACK
        ) from error


def _child(tree: pygit2.Tree, path: str) -> pygit2.Object | None:
    try:
        return tree[path]
    except KeyError:
        return None


def _create(folder: Path) -> None:
    """Make an empty repository beside its place and move it there: a crash leaves no half of one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pygit2.init_repository(str(fresh), bare=True, initial_head=FLEET_REF.removeprefix(BRANCHES))
        fresh.chmod(0o777 & ~_umask())
        fresh.replace(folder)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        # Another renderer may have made it in the meantime.
        if not (isinstance(error, OSError) and (folder / "HEAD").exists()):
            raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


class StateRepo:
    """A bare repository with the branch `fleet` and one branch per device."""

    def __init__(self, repository: pygit2.Repository) -> None:
        self._repository = repository
        self.folder = Path(repository.path)
        self.refs = Refs(self.folder)

    @classmethod
    def open(cls, folder: Path) -> StateRepo:
        """Return the state repo in a folder.

        Raises:
            StateRepoUnusable: there is none, or it has a format this program cannot write.
        """
        try:
            repository = pygit2.Repository(str(folder))
        except pygit2.GitError as error:
            if not folder.exists():
                remedy = "the first render makes it: margo-gitops render"
            elif "not owned by current user" in str(error):
                remedy = f"if you trust it: git config --global --add safe.directory {folder}"
            elif not os.access(folder, os.R_OK | os.X_OK):
                remedy = "see that you may read this folder"
            elif (folder / "HEAD").exists() or (folder / "refs").exists():
                remedy = "this repository is damaged: restore it from its remote or a backup"
            else:
                remedy = "name another folder with --state, or remove this one if nothing in it is needed"
            raise StateRepoUnusable(f"there is no state repo at {folder}", why=[str(error)], remedy=remedy) from error
        if not repository.is_bare:
            raise StateRepoUnusable(
                f"{folder} has a work tree: a state repo is bare, because nobody edits it",
                remedy="name another folder with --state",
            )
        return cls(repository)

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
            remedy = "name another folder with --state, or make room there"
            raise StateRepoUnusable(
                f"no state repo can be made at {folder}", why=[str(error)], remedy=remedy
            ) from error
        return cls.open(folder)

    def write(self, pack: ObjectPack) -> None:
        """Make a pack's objects part of the repository; no ref leads to them yet.

        Raises:
            StateRepoUnusable: the file system refuses; nothing is left behind.
        """
        try:
            pack.write(self.folder / "objects" / "pack")
        except OSError as error:
            raise StateRepoUnusable(
                f"the objects cannot be written to {self.folder}",
                why=[str(error)],
                remedy="nothing was changed; see that the disk is not full and the folder is yours, then render again",
            ) from error

    def commit(self, name: str) -> GitCommit:
        """Return a commit.

        Raises:
            StateTampered: there is no such commit, or it is none that a renderer writes.
        """
        try:
            return parse_commit(self._commit(name).read_raw())
        except ValueError as error:
            raise StateTampered(f"the commit {name} is none of the renderer's", why=[str(error)]) from error

    def held(self, device: str, values: Mapping[str, str]) -> HeldDevice | None:
        """Return what a device's branch holds.

        Args:
            device: the client's id.
            values: all refs, as `refs.read` returned them.

        Raises:
            StateTampered: the branch does not hold a device's state.
        """
        name = values.get(device_ref(device))
        if name is None:
            return None
        tree = self._commit(name).tree
        blob = _child(tree, MANIFEST_FILE)
        if not isinstance(blob, pygit2.Blob):
            raise StateTampered(
                f"the branch of {device} holds no {MANIFEST_FILE}",
                device=device,
                remedy="put the branch back to the last commit of the renderer",
            )
        return HeldDevice(name, str(tree.id), bytes(blob.data), tree)

    def file(self, name: str, path: str) -> bytes | None:
        """Return a file's bytes as the commit `name` holds it; None where it holds none.

        Raises:
            StateTampered: there is no such commit.
        """
        blob = _child(self._commit(name).tree, path)
        return bytes(blob.data) if isinstance(blob, pygit2.Blob) else None

    def signature(self, device: str, values: Mapping[str, str]) -> SshSignature | None:
        """Return the signature of a device's latest commit, not verified; None where it has none that can be read."""
        name = values.get(device_ref(device))
        raw = self._commit(name).read_raw() if name else b""
        if b"\ngpgsig " not in raw:
            return None
        try:
            return parse_signature(parse_commit(raw).signature or "")
        except (ValueError, SignatureInvalid):
            return None

    def fleet_tree(self, values: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Return (site, tree id) of every device in the fleet branch, by encoded device id; empty before the first.

        Raises:
            StateTampered: the fleet branch holds something else.
        """
        name = values.get(FLEET_REF)
        if name is None:
            return {}
        sites = _child(self._commit(name).tree, DEVICES_FOLDER)
        return {
            str(device.name): (str(site.name), str(device.id))
            for site in (sites if isinstance(sites, pygit2.Tree) else ())
            if isinstance(site, pygit2.Tree)
            for device in site
        }

    def left_tree(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the tree id of every device that left the fleet, by encoded device id.

        Raises:
            StateTampered: the fleet branch holds something else.
        """
        name = values.get(FLEET_REF)
        devices = _child(self._commit(name).tree, LEFT_FOLDER) if name else None
        return {str(device.name): str(device.id) for device in (devices if isinstance(devices, pygit2.Tree) else ())}

    def tampered(self, values: Mapping[str, str]) -> Iterator[StateTampered]:
        """Yield every device branch that does not hold what the fleet branch says it holds, and a fleet branch lost."""
        branches = {name for name in values if name.startswith(DEVICE_REFS)}
        if FLEET_REF not in values:
            if branches:
                yield StateTampered(
                    f"{FLEET_REF} is gone, and {len(branches)} device branches are there",
                    why=[f"one of them is {min(branches)}"],
                    remedy=_PUT_BACK,
                )
            return
        places = {name: (f"{DEVICES_FOLDER}/{site}", tree) for name, (site, tree) in self.fleet_tree(values).items()}
        places |= {name: (LEFT_FOLDER, tree) for name, tree in self.left_tree(values).items()}
        for encoded, (folder, tree) in places.items():
            ref = f"{DEVICE_REFS}{encoded}"
            branches.discard(ref)
            name = values.get(ref)
            found = str(self._commit(name).tree.id) if name else None
            if found != tree:
                yield StateTampered(
                    f"{ref} is not what the fleet branch holds at {folder}/{encoded}",
                    device=device_of(encoded),
                    why=[
                        f"its commit {name} has the tree {found}" if name else "the branch is gone",
                        f"the fleet branch's commit {values[FLEET_REF]} has the tree {tree}",
                    ],
                    remedy=_PUT_BACK,
                )
        for ref in sorted(branches):
            yield StateTampered(
                f"{ref} is a branch that no render made", why=[f"it is at {values[ref]}"], remedy=_PUT_BACK
            )

    def _commit(self, name: str) -> pygit2.Commit:
        try:
            return self._repository[name].peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise StateTampered(
                f"the state repo lacks the commit {name}, which a branch leads to",
                remedy="restore the repository from its remote or a backup",
            ) from error

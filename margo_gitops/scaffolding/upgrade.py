"""Bring the tooling of a scaffolded fleet repo up to date; what runs where is never touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from margo_gitops import __version__
from margo_gitops.catalog.fleet_repo import FLEET_FILE, FleetRepo
from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.records import read
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import Location, NoFleetRepo, UpgradeRefused, listed
from margo_gitops.scaffolding.merge import FileUpgrade, OnConflict, upgrade_file
from margo_gitops.scaffolding.record import (
    RECORD_FILE,
    Scaffold,
    ScaffoldedFile,
    new_record,
    read_record,
    scaffolded,
    write_record,
)
from margo_gitops.scaffolding.template import FIRST_SITE, REQUIREMENTS_FILE, Answers, CiKind, tooling_files
from margo_gitops.scaffolding.tool import proved
from margo_gitops.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        before: the version that scaffolded it last; None: before scaffolds were recorded.
        files: what became of each file, sorted by path.
    """

    root: Path
    before: str | None
    after: str
    files: tuple[FileUpgrade, ...]

    @property
    def conflicts(self) -> tuple[FileUpgrade, ...]:
        """The files that were not upgraded, because both sides changed the same lines."""
        return tuple(file for file in self.files if file.fate == "conflict")


def upgrade(
    folder: Path,
    *,
    ci: CiKind | None = None,
    requirements: bytes | None = None,
    on_conflict: OnConflict = "keep",
    allow_dirty: bool = False,
) -> Upgraded:
    """Write what this version scaffolds into a fleet repo, merged with what people changed; nothing is committed.

    Args:
        folder: a folder in the fleet repo.
        ci: whose pipelines must be there; None: as before.
        requirements: what pipelines install; None: as before, where that is proved.
        allow_dirty: upgrade although the fleet repo has changes that are not committed.

    Raises:
        NoFleetRepo: the folder is not in a fleet repo.
        UpgradeRefused: changes are not committed, a newer version scaffolded it, or the file system refuses.
        FilesNotWritten: git would ignore or change a file that the upgrade writes; nothing is written.
        UnreadableDocument, InvalidDocument: the record or `margo-gitops.yaml` is damaged.
    """
    repo = FleetRepo.find(folder)
    root = repo.root
    if not (root / FLEET_FILE).is_file():
        raise NoFleetRepo(
            f"there is no {FLEET_FILE} in {root}", remedy="name a fleet repo, or make one with `margo-gitops init DIR`"
        )
    dirty = repo.uncommitted()
    if dirty and not allow_dirty:
        raise UpgradeRefused(
            f"{root} has changes that are not committed",
            why=listed(dirty),
            remedy="commit them first, so that you see what the upgrade does; or pass --allow-dirty",
        )
    record = _record(root)
    if record is not None and _release(record.version) > _release(__version__):
        raise UpgradeRefused(
            f"margo-gitops {record.version} scaffolded this, and this is {__version__}",
            where=Location(RECORD_FILE),
            remedy=f"pip install --requirement {REQUIREMENTS_FILE}",
        )
    answers = _answers(root, record)
    if ci is not None:
        answers = replace(answers, ci=ci)
    before = record.by_path() if record else {}
    old = before[REQUIREMENTS_FILE].text if REQUIREMENTS_FILE in before else None
    if requirements is None and old is not None and proved(old):
        requirements = old.encode()
    files = _upgraded_files(root, before, tooling_files(answers, requirements), on_conflict)
    kept = {file.path: file.record for file in files if file.record is not None}
    written = {file.path: file.content for file in files if file.content is not None}
    written[RECORD_FILE] = write_record(new_record(answers, kept))
    repo.working_tree().check_written(written)
    try:
        for file in files:
            if file.fate == "removed":
                _remove(root, root / file.path)
        for path, content in written.items():
            _write(root / path, content)
    except OSError as error:
        raise UpgradeRefused(
            f"{root} cannot be written", why=[str(error)], remedy="make it writable, and upgrade again"
        ) from error
    return Upgraded(root, record.version if record else None, __version__, tuple(files))


def _upgraded_files(
    root: Path, before: Mapping[str, ScaffoldedFile], now: Mapping[str, bytes], on_conflict: OnConflict
) -> list[FileUpgrade]:
    files = []
    for path in sorted({*before, *now}):
        theirs = now.get(path)
        if _behind_link(root, path):
            # What a link leads to is not the scaffold's.
            kept = scaffolded(path, theirs) if theirs is not None else None
            files.append(FileUpgrade(path, "left", None, kept))
            continue
        place = root / path
        mine = place.read_bytes() if place.is_file() else None
        files.append(upgrade_file(path, before.get(path), mine, theirs, on_conflict))
    return files


def _behind_link(root: Path, path: str) -> bool:
    place = root / path
    return any(each.is_symlink() for each in (place, *place.parents) if each.is_relative_to(root) and each != root)


def _record(root: Path) -> Scaffold | None:
    place = root / RECORD_FILE
    return read_record(place.read_bytes()) if place.is_file() else None


def _answers(root: Path, record: Scaffold | None) -> Answers:
    """Return what was answered; what follows from the fleet itself where nothing is recorded."""
    if record is not None:
        return record.answers
    fleet = read(Fleet, read_yaml((root / FLEET_FILE).read_bytes(), FLEET_FILE))
    sites = sorted(path.stem for path in (root / "sites").glob("*.yaml"))
    return Answers(fleet.metadata.name, "both", FIRST_SITE if FIRST_SITE in sites or not sites else sites[0])


def _remove(root: Path, place: Path) -> None:
    place.unlink()
    parent = place.parent
    while parent != root and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_file() or place.read_bytes() != content:
        place.write_bytes(content)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version.partition("+")[0])[:3])

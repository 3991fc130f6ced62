"""The part of a fleet that can differ from what a state repo holds: a render costs what the change costs.

What the state repo holds was rendered from the fleet commit that its newest commit names. The files that differ from
that commit say which devices can differ; the others are neither read nor rendered.

CHANGED-1  Only that commit is believed which this version wrote, and only while the branches are as the last render of
           this machine left them. A seal in the cache folder says so: a digest over branches and versions, signed by
           the key that signed the newest commit. It says nothing else: without it, or with a wrong one, the result is
           the same, only later.
CHANGED-2  If anything differs that all devices share, or a deployment that goes to devices by labels alone or to all,
           the whole fleet is rendered.
CHANGED-3  A part with an error is not used: the whole fleet is rendered, so that each refusal names every error.
CHANGED-4  A part has all documents of a gateway and its children, or none of them (catalog/fleet_part, PART-1).
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from margo_gitops.catalog.file_tree import MAX_DEPTH
from margo_gitops.catalog.fleet import read_devices, read_fleet
from margo_gitops.catalog.fleet_part import files_of, stem
from margo_gitops.catalog.fleet_repo import FLEET_FILE
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.device_id import client_of, encode_device_id
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.state_layout import FLEET_REF, STATE_BRANCHES
from margo_gitops.errors import SignatureInvalid
from margo_gitops.operations.fleet_input import RENDERED_BY, FleetInput
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.placement import select, targets
from margo_gitops.rendering.references import known_parameters
from margo_gitops.rendering.render import shared_by_all
from margo_gitops.state_repo.objects import DevicePlace
from margo_gitops.state_repo.packed_refs import RefValues, changed_refs
from margo_gitops.state_repo.state_repo import StateRepo, device_of
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import MAX_ARMOR_BYTES, parse_signature, sign
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, replace

_SEAL_NAMESPACE: Final = "margo-gitops-rendered"
_LIBRARIES: Final = ("jinja2", "yaml")
"""That take part in a render."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The file that says how the last render of this machine left a state repo's branches (CHANGED-1)."""

    path: Path

    @classmethod
    def of(cls, cache: Path, location: str) -> Seal:
        """Return the seal for the state repo at a path or URL."""
        name = hashlib.sha256(location.encode("utf-8", "surrogateescape")).hexdigest()
        return cls(cache / "rendered" / name[:32])

    def write(self, values: RefValues, moves: Mapping[str, str], key: SigningKey | None) -> None:
        """Remember how the branches are after a render; a cache that cannot be written is not a reason to fail.

        Args:
            values: all refs before it.
            moves: the branches that it moved.
        """
        content = _sealed(values, moves)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A pipeline's cache is often inside its clone: git must not see it there.
            (self.path.parent / ".gitignore").write_bytes(b"*\n")
            replace_file(self.path, sign(content, key, _SEAL_NAMESPACE).encode() if key else content)
        except OSError:
            return

    def rendered_from(self, repo: StateRepo, values: RefValues, key: SigningKey | None, *, signed: bool) -> str | None:
        """Return the fleet commit of which every device holds the render; None where that is not known.

        Args:
            values: all refs.
            key: that must have signed it; None: any.
            signed: whether a key must have signed it.
        """
        tip = values.get(FLEET_REF)
        try:
            held = read_bounded(self.path, MAX_ARMOR_BYTES, private=True)
            commit = repo.objects.commit(tip) if tip else None
            if commit is None:
                return None
            if commit.signature is None:
                intact = not signed and held == _sealed(values, {})
            else:
                signer = parse_signature(commit.signature).key
                parse_signature(held.decode("ascii")).verify(_sealed(values, {}), signer, _SEAL_NAMESPACE)
                intact = key is None or key.public == signer
        except (OSError, UnicodeError, SignatureInvalid):
            return None
        said = StateCommit.of(commit)
        return said.fleet_commit if intact and said.rendered_by == RENDERED_BY else None


_OTHER_REFS: Final = re.compile(
    rb" (?:%s)[^\n]*\n" % b"|".join(re.escape(each.name.encode()) for each in STATE_BRANCHES if not each.rendered)
)
"""What moves without a render: the end of such a ref's line."""


@cache
def _others_part() -> bytes:
    """Return what others do in a render: with another Python or library, everything is rendered again."""
    specs = map(find_spec, _LIBRARIES)  # to load them for a version takes longer than to read them
    folders = (Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ())
    files = (file.read_bytes() for folder in folders for file in sorted(folder.glob("*.py")))
    return platform.python_version().encode() + b"".join(hashlib.sha256(content).digest() for content in files)


def _sealed(values: RefValues, moves: Mapping[str, str]) -> bytes:
    refs = changed_refs(values.packed, {**values.loose, **moves})
    digest, at = hashlib.sha256(b"%b\n%b\n" % (RENDERED_BY.encode(), _others_part())), 0
    for other in _OTHER_REFS.finditer(refs):
        digest.update(refs[at : other.start() - 40])  # without the id
        at = other.end()
    digest.update(refs[at:])
    return digest.hexdigest().encode()


def changed_part(fleet: FleetInput, base: str, held: Callable[[], Mapping[str, DevicePlace]]) -> Intent | None:
    """Return the part of a fleet that can differ from a commit which can be rendered; None: it is all of it.

    Args:
        fleet: of which `margo-gitops.yaml` is read.
        base: the commit that can be rendered.
        held: returns where the state repo holds the devices of `base`.

    Raises:
        FleetInvalid: a file that differs has findings.
    """
    changed = fleet.repo.changed_files(base, fleet.commit.id or None)
    if not changed and fleet.commit.id in (base, ""):
        return fleet.intent
    files = sorted(path for path in changed if path.startswith("devices/"))
    if any(path.count("/") > MAX_DEPTH for path in files):
        return None
    before, after, shared = fleet.repo.tree(base), fleet.tree, read_fleet(fleet.tree, ())
    old = read_fleet(before, ()) if any(map(_is_shared, changed)) else shared
    clients = {client_of(name) for tree in (before, after) for name in read_devices(tree, files)}
    sites = {stem(path).rpartition("/")[2] for path in changed if path.startswith("sites/")}
    deployments = changed_deployments(old, shared)
    if deployments is None:
        return None
    for deployment in deployments:
        clients.update(map(client_of, deployment.spec.placement.devices))
        sites.update(deployment.spec.placement.sites)
    if not clients and not sites:
        return replace(shared, clients=frozenset())

    def listed(found: Iterable[str]) -> list[str]:
        return sorted({*files, *found})  # those that are gone are not read

    if sites:
        places = held()
        clients |= {device_of(name) for name, place in places.items() if place.site in sites}
        paths = listed(before.paths("devices"))
        children = read_devices(after, [path for path in paths if _may_be_child(path, places)])
        clients |= {client_of(name) for name, each in children.items() if each.value.spec.site in sites}
    wanted = files_of(listed(before.named("devices", clients)), clients)
    devices = {name: each for name, each in read_devices(after, wanted).items() if client_of(name) in clients}
    part = replace(shared, devices=devices, clients=frozenset(clients))
    names = {deployment.metadata.name for deployment in deployments}
    lost = lost_placements(part, lambda: read_fleet(before, sorted({*wanted, *files})), names)
    for path in listed(before.paths("devices")) if lost else ():
        if not lost:
            break
        one = targets(replace(part, devices=read_devices(after, [path])))
        lost = [placement for placement in lost if not any(select(placement, one))]
    return None if lost else part


def _is_shared(path: str) -> bool:
    """Whether a file is one that a render reads, and is not of a device or a site."""
    top = path.partition("/")[0].lower()
    return top in ("deployments", "applications") or path in (FLEET_FILE, LOCK_FILE)


def changed_deployments(old: Intent, new: Intent) -> list[Deployment] | None:
    """Return the deployments that differ, as they were and as they are; None where all devices are concerned."""
    if shared_by_all(old) != shared_by_all(new) or known_parameters(old) - known_parameters(new):
        return None
    names = old.deployments.keys() | new.deployments.keys()
    changed = [name for name in sorted(names) if _deployed(old, name) != _deployed(new, name)]
    found = [side.deployments[name].value for name in changed for side in (old, new) if name in side.deployments]
    return found if all(_is_narrow(deployment.spec.placement) for deployment in found) else None


def _deployed(intent: Intent, name: str) -> tuple[bytes, str] | None:
    """Return all that devices get of a deployment: what it says, and the digest of its application."""
    deployment = intent.deployments.get(name)
    if deployment is None:
        return None
    wanted = deployment.value.spec.application
    application = intent.applications.get((wanted.id, wanted.version))
    return deployment.content, application.digest if application else ""


def _is_narrow(placement: DeviceSelector) -> bool:
    """Whether the devices are known without looking at the labels of all."""
    return not placement.all and bool(placement.sites or not (placement.match_labels or placement.match_expressions))


def lost_placements(part: Intent, before: Callable[[], Intent], changed: Collection[str]) -> list[DeviceSelector]:
    """Return where deployments are placed that select no device of a part, and did before the change or changed.

    Args:
        before: returns the same part before the change.
        changed: names of deployments.
    """
    fleet = targets(part)
    placements = {name: deployment.value.spec.placement for name, deployment in part.deployments.items()}
    empty = {name: placement for name, placement in placements.items() if not any(select(placement, fleet))}
    old = targets(before()) if empty else {}
    return [placement for name, placement in empty.items() if name in changed or any(select(placement, old))]


def _may_be_child(path: str, places: Collection[str]) -> bool:
    """Whether a file may be about a child of a gateway."""
    *folders, name = stem(path).split("/")
    return "_2f" in name or any(_is_client(folder, places) for folder in folders)


def _is_client(name: str, places: Collection[str]) -> bool:
    try:
        return encode_device_id(name) in places
    except ValueError:
        return False

"""Put a render into the state repo: one fleet commit, one commit per changed device, all refs or none.

PUBLICATION-1  A device commit's tree is the same tree object that the fleet commit has for this device.
PUBLICATION-2  Equal input gives equal commit ids: author and dates come from the fleet commit, signatures are ed25519.
PUBLICATION-3  A device whose state did not change gets no commit. If nothing changed at all, there is no commit.
PUBLICATION-4  A device that left the fleet keeps its branch, and its tree stays in the fleet branch below `left/`. So a
               deleted file stops nothing on a machine. If the device comes back, its version continues from the last
               one.
PUBLICATION-5  A freshness statement moves together with its state. If nothing changed, it is renewed after half of its
               life, or when the trust document has a new version, so that repeated equal renders write nothing.
PUBLICATION-6  New versions of the trust document move together with the state (trust_branch). They alone cause no
               commit of a device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.state_layout import (
    ALIASES_FILE,
    DEVICES_FOLDER,
    FLEET_REF,
    LEFT_FOLDER,
    NO_SITE,
    TRUST_REF,
    device_ref,
    write_aliases,
)
from margo_gitops.errors import Location, SigningKeyUnusable
from margo_gitops.processes import process_count
from margo_gitops.progress import steps
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.state_repo.freshness_refs import Renewal, Renewed, add_statement, held_leaves, is_due, leaf_of, renew
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.objects import DevicePlace, DeviceTree
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.render_commits import Provenance, RenderCommits, fleet_message
from margo_gitops.state_repo.state_repo import StateRepo, device_of
from margo_gitops.trust.git_objects import (
    BLOB,
    FILE_MODE,
    FOLDER_MODE,
    TREE,
    TreeEntry,
    deployments_tree,
    device_tree,
    tree_bytes,
)
from margo_gitops.trust.ssh_key import MAX_KEY_FILE_BYTES, SigningKey, parse_signing_key
from margo_gitops.trust.trust_document import FleetTrust
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class PublishedDevice:
    """A device whose state changed: its new version, and the commit on its branch."""

    device: str
    site: str | None
    version: int
    commit: str


@dataclass(frozen=True, slots=True)
class Publication:
    """What a render put into the state repo.

    Attributes:
        fleet_commit: id of the new commit of the fleet branch; None where nothing changed.
        changes: sorted by device.
        unchanged: how many devices kept their state.
        left: devices that are no longer in the fleet branch.
        moved: the site that a device was at before, of each that is at another one now.
        trust: the commit of the branch `trust`, where it moved.
        freshness: the new statement of freshness; None where none was made.
    """

    fleet_commit: str | None
    changes: tuple[PublishedDevice, ...]
    unchanged: int
    left: tuple[str, ...]
    freshness: Renewed | None = None
    moved: Mapping[str, str | None] = field(default_factory=dict)
    trust: str | None = None


@dataclass(frozen=True, slots=True)
class SharedWork:
    """What several processes do of a render.

    Attributes:
        jobs: how many; None: one for each processor, in large fleets.
        pack: the objects that are made already.
        trees: the tree of each device whose objects are made already.
    """

    jobs: int | None = 1
    pack: ObjectPack = field(default_factory=ObjectPack)
    trees: dict[str, str] = field(default_factory=dict)


def write_render(
    repo: StateRepo,
    states: Sequence[DesiredState],
    values: Mapping[str, str],
    provenance: Provenance,
    key: SigningKey | None,
    renewal: Renewal | None = None,
    aliases: Mapping[str, str] | None = None,
    only: frozenset[str] | None = None,
    trusted: Sequence[FleetTrust] = (),
    work: SharedWork | None = None,
) -> Publication:
    """Write a render into the state repo.

    Args:
        values: all refs, as they were when the render began.
        key: signs every commit; None: nothing is signed.
        renewal: how to make a statement of freshness (freshness_refs); None: do not make one.
        aliases: what devices call themselves, by device id.
        only: the devices that were rendered, as the fleet branch names them; the others stay as they are. None: all.
        trusted: the trust documents that count; empty for a fleet without them.
        work: what of it was made already; None: nothing, and one process does it.

    Raises:
        ProcessEnded: one of several processes was killed; nothing was written.
        TrustDocumentRollback: devices got others (trust_branch).
        StateMoved: somebody moved a ref since; nothing was written.
        StateRepoUnusable: the file system refuses; nothing was moved.
    """
    work = work or SharedWork()
    pack = work.pack
    commits = RenderCommits(pack, provenance, key)
    if only is not None and not only and not trusted and isinstance(values, RefValues):
        renewed = renew(repo, values, renewal) if renewal and is_due(repo, values, renewal.issued) else None
        return Publication(None, (), repo.device_count(values), (), renewed)
    pack.know(repo.folders(values))
    known = repo.places(values)
    trees = {
        # PUBLICATION-1: what did not change is in the fleet branch already.
        state.device: work.trees.get(state.device) or _device_tree(pack, state, repo.held(state.device, values))
        if state.changed
        else known[encode_device_id(state.device)].tree
        for state in steps("writing states", states)
    }
    here = {encode_device_id(device) for device in trees}
    kept: dict[str, DevicePlace] = {}
    if only is not None:
        kept = dict(known)
        for name in (*only, *(name for name, place in known.items() if place.folder == LEFT_FOLDER)):
            kept.pop(name, None)
    gone = {name: place for name, place in known.items() if name not in here and name not in kept}
    left = tuple(sorted(device_of(name) for name, place in gone.items() if not place.left))
    parent = values.get(FLEET_REF)
    untouched = repo.objects.sites(repo.objects.links(parent).tree) if parent is not None and only is not None else {}
    for site in _touched(states, known, only or ()):
        untouched.pop(site, None)
    root = _fleet_tree(pack, _by_site(states, trees, kept, untouched), untouched, gone, aliases or {})
    unchanged = len(kept) + len(states)
    changed = [state for state in states if state.changed]
    trust = commits.documents(repo, values, trusted)
    documents = {TRUST_REF: trust} if trust else {}
    if parent is not None and not changed and repo.objects.commit(parent).tree == root:
        if documents:
            repo.publish(pack, {FLEET_REF: parent, **documents}, values)
            values = {**values, **documents}
        renewed = renew(repo, values, renewal) if renewal and is_due(repo, values, renewal.issued) else None
        return Publication(None, (), unchanged, left, renewed, trust=trust)

    fleet_commit = commits.commit(root, parent, fleet_message(changed, left, provenance))
    moves = {FLEET_REF: fleet_commit, **documents}
    ids = commits.devices(changed, trees, values, fleet_commit, process_count(len(changed), work.jobs))
    changes = [
        PublishedDevice(state.device, state.site, state.version, commit)
        for state, commit in zip(changed, ids, strict=True)
    ]
    moves |= {device_ref(change.device): change.commit for change in changes}
    renewed = None
    if renewal is not None:
        leaves = [leaf_of(state.device, state.manifest) for state in states]
        leaves += held_leaves(repo, [name for name in known if name not in here], values)
        version = len(trusted) or None
        renewed = add_statement(pack, leaves, provenance.origin.fleet or "", fleet_commit, renewal, values, version)
    repo.publish(pack, {**moves, **(renewed.moves if renewed else {})}, values)
    before = {state.device: known.get(encode_device_id(state.device)) for state in states}
    sites = {device: place.site for device, place in before.items() if place and not place.left}
    moved = {state.device: sites[state.device] for state in states if sites.get(state.device, state.site) != state.site}
    return Publication(fleet_commit, tuple(changes), unchanged - len(changed), left, renewed, moved, trust)


def _device_tree(pack: ObjectPack, state: DesiredState, held: DeviceTree | None) -> str:
    if held is not None:
        pack.know(held.names)
    return device_objects(pack, state)[0]


def device_objects(pack: ObjectPack, state: DesiredState) -> tuple[str, dict[str, str]]:
    """Add the objects of a state; return the ids of its tree, and of each document by deployment id."""
    blobs = {name: pack.add(BLOB, content) for name, content in state.deployments.items()}
    folder = pack.add(TREE, deployments_tree(blobs)) if blobs else None
    return pack.add(TREE, device_tree(pack.add(BLOB, state.manifest), folder)), blobs


def _touched(states: Iterable[DesiredState], known: Mapping[str, DevicePlace], only: Iterable[str]) -> Iterator[str]:
    """Yield the folders of the sites that rendered devices are at, or were."""
    yield from (state.site or NO_SITE for state in states)
    yield from (known[name].site or NO_SITE for name in only if name in known)


def _by_site(
    states: Iterable[DesiredState],
    trees: Mapping[str, str],
    kept: Mapping[str, DevicePlace],
    untouched: Collection[str],
) -> dict[str, list[TreeEntry]]:
    """Return what the folder of each site holds, without those that stay as they are."""
    sites: dict[str, list[TreeEntry]] = {}
    apart = {f"{DEVICES_FOLDER}/{site}" for site in untouched}
    for encoded, place in kept.items():
        if place.folder not in apart:
            sites.setdefault(place.site or NO_SITE, []).append(TreeEntry(encoded.encode(), FOLDER_MODE, place.tree))
    for state in states:
        name = encode_device_id(state.device).encode()
        sites.setdefault(state.site or NO_SITE, []).append(TreeEntry(name, FOLDER_MODE, trees[state.device]))
    return sites


def _fleet_tree(
    pack: ObjectPack,
    sites: Mapping[str, Iterable[TreeEntry]],
    untouched: Mapping[str, str],
    left: Mapping[str, DevicePlace],
    aliases: Mapping[str, str],
) -> str:
    made = {site: pack.add(TREE, tree_bytes(devices)) for site, devices in sites.items()}
    folders = [TreeEntry(site.encode(), FOLDER_MODE, tree) for site, tree in {**untouched, **made}.items()]
    gone = [TreeEntry(name.encode(), FOLDER_MODE, place.tree) for name, place in left.items()]
    # An empty folder has no place in git: a fleet without devices is an empty tree.
    entries = [
        TreeEntry(name.encode(), FOLDER_MODE, pack.add(TREE, tree_bytes(inside)))
        for name, inside in ((DEVICES_FOLDER, folders), (LEFT_FOLDER, gone))
        if inside
    ]
    if aliases:
        entries.append(TreeEntry(ALIASES_FILE.encode(), FILE_MODE, pack.add(BLOB, write_aliases(aliases))))
    return pack.add(TREE, tree_bytes(entries))


def differences(
    repo: StateRepo,
    states: Sequence[DesiredState],
    values: Mapping[str, str],
    aliases: Mapping[str, str] | None = None,
    only: frozenset[str] | None = None,
) -> list[str]:
    """Return, in words, what a render would change in the state repo; empty for nothing.

    The arguments are those of `write_render`.
    """
    known = repo.places(values).items()
    held = {name: place.site for name, place in known if not place.left and (only is None or name in only)}
    found = []
    for state in states:
        encoded = encode_device_id(state.device)
        if encoded not in held:
            found.append(f"{state.device} is missing")
        elif state.changed:
            found.append(f"{state.device} would get manifest {state.version}")
        elif held[encoded] != state.site:
            before, after = held[encoded] or NO_SITE, state.site or NO_SITE
            found.append(f"{state.device} would move from site {before} to {after}")
    here = {encode_device_id(state.device) for state in states}
    found += [f"{device_of(name)} would leave the fleet" for name in sorted(held.keys() - here)]
    called = repo.objects.aliases(values[FLEET_REF]) if FLEET_REF in values else {}
    wanted = aliases or {}
    found += [
        f"{device} would be called {wanted.get(device, device)}"
        for device in sorted({*called, *wanted})
        if called.get(device) != wanted.get(device)
    ]
    return found


def read_signing_key(path: Path) -> SigningKey:
    """Return the key in a file that only its owner can read.

    Raises:
        SigningKeyUnusable: it cannot be read, others could read it, or it is not such a key.
    """
    content = read_small_file(
        path,
        MAX_KEY_FILE_BYTES,
        what="the signing key cannot be read",
        error=SigningKeyUnusable,
        remedy=f"name a file that you alone can read: chmod 600 {path}",
        private=True,
    )
    try:
        return parse_signing_key(content)
    except ValueError as error:
        raise SigningKeyUnusable(
            "the signing key cannot be used", where=Location(str(path)), why=[str(error)]
        ) from error

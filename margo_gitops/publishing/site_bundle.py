"""Make a bundle: what the devices of a site need, to be carried there (docs/sticks.md).

CARRIED-1  Nothing is made of a state repo that was tampered with; all is read from one view of it.
CARRIED-2  Manifests, commits, proofs and trust documents are always there: they are small, and a device may lack any.
CARRIED-3  With `since`, content that a device needed at that commit is left out for it. A device that lacks it says so.
CARRIED-4  The same state repo and the same request give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.declarations import Wire
from margo_gitops.documents.deployment import ApplicationDeployment, Artifact
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.records import write
from margo_gitops.documents.site_bundle import (
    SiteBundle,
    blob_path,
    commit_path,
    manifest_path,
    proof_path,
    trust_path,
)
from margo_gitops.documents.state_layout import FLEET_REF, MANIFEST_FILE
from margo_gitops.documents.workload_identity import own_extension
from margo_gitops.errors import (
    BundleNotMade,
    DeploymentUnusable,
    InvalidDocument,
    StateTampered,
    UnreadableDocument,
)
from margo_gitops.publishing.bundle_places import Content, write_folder, write_tar
from margo_gitops.state_repo.objects import DevicePlace, StateObjects, listed_deployments
from margo_gitops.state_repo.served_state import ServedState, StateView
from margo_gitops.state_repo.state_repo import StateRepo, device_of
from margo_gitops.trust.freshness import read_statement
from margo_gitops.values import dataclass, field
from margo_gitops.wording import did_you_mean

TAR_SUFFIX: Final = ".tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What a bundle is made for.

    Attributes:
        site: the site; None: devices are named.
        devices: ids; of the site, where one is named. Empty: all of the site.
        since: a revision of the state repo: what the site has already.
    """

    site: str | None = None
    devices: Collection[str] = field(default_factory=frozenset)
    since: str | None = None


@dataclass(frozen=True, slots=True)
class MadeBundle:
    """What was made.

    Attributes:
        written: how many files were new, or in a tar file, all of them.
        left_out: how many pieces of content the site has already.
    """

    state_commit: str
    devices: tuple[str, ...]
    blobs: int
    size: Annotated[int, Wire("sizeBytes")]
    left_out: int
    written: Annotated[int, Wire("filesWritten")]


Fetch: TypeAlias = Callable[[Artifact], Path]
"""Returns a file with the verified content of a component (ArtifactUnavailable, ArtifactRefused)."""


def make_bundle(repo: StateRepo, place: Path, request: BundleRequest, fetch: Fetch) -> MadeBundle:
    """Write a bundle: a tar file where the name ends so, otherwise a folder.

    Raises:
        ArtifactUnavailable, ArtifactRefused: the content of a component cannot be fetched.
        BundleNotMade: there is no such site, device or revision, or the place cannot be written.
        StateTampered: the state repo does not hold what a renderer wrote.
    """
    for error in repo.tampered(repo.refs.read()):
        raise error
    served = ServedState(repo)
    view = served.view()
    if view.fleet_commit is None:
        raise BundleNotMade("nothing was rendered yet", remedy="run `margo-gitops render`")
    devices = _chosen(repo.places(view.refs), request)
    since, before = _before(served.objects, view.fleet_commit, request.since)
    files: dict[str, Content] = {}
    blobs: dict[Digest, Content] = {}
    left_out: set[Digest] = set()
    for device in devices:
        content, artifacts = _add_device(files, view, device)
        known = before.get(encode_device_id(device), frozenset())
        left_out |= {*content, *artifacts} & known
        blobs |= {digest: each for digest, each in content.items() if digest not in known}
        blobs |= {digest: fetch(each) for digest, each in artifacts.items() if digest not in known | blobs.keys()}
    version = 1
    while (document := view.trust_document(version)) is not None:
        files[trust_path(version)] = document
        version += 1
    files |= {blob_path(digest): content for digest, content in blobs.items()}
    said = write_json(write(SiteBundle(view.fleet_commit, devices, request.site, since)))
    writer = write_tar if place.suffix == TAR_SUFFIX else write_folder
    written = writer(place, files, said)
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values())
    return MadeBundle(view.fleet_commit, devices, len(blobs), size, len(left_out - blobs.keys()), written)


def _chosen(places: Mapping[str, DevicePlace], request: BundleRequest) -> tuple[str, ...]:
    """Return the devices of a request, sorted."""
    there = {device_of(encoded): place.site for encoded, place in places.items() if not place.left}
    if request.site is not None and request.site not in there.values():
        raise BundleNotMade(
            f"no device of the fleet is at the site {request.site}",
            remedy=did_you_mean(request.site, {site for site in there.values() if site}),
        )
    wrong = [each for each in request.devices if each not in there or request.site not in (None, there[each])]
    if wrong:
        what = f"of the site {request.site}" if request.site is not None else "of the rendered fleet"
        raise BundleNotMade(f"{min(wrong)} is not a device {what}", remedy="see margo-gitops device list")
    chosen = request.devices or [device for device, site in there.items() if site == request.site]
    return tuple(sorted(chosen))


def _add_device(
    files: dict[str, Content], view: StateView, device: str
) -> tuple[dict[Digest, Content], dict[Digest, Artifact]]:
    """Add the files of a device; return the documents that its manifest lists, and what they need."""
    state = view.state(device)
    if state is None:
        raise StateTampered(f"the branch of {device} is gone", device=device)
    files[manifest_path(device)] = state.manifest
    if state.signed_commit is not None:
        files[commit_path(device)] = state.signed_commit
    if (proof := view.proof(device)) is not None:
        files[proof_path(read_statement(proof)[0].shard)] = proof
    return {sha256(each): each for each in state.deployments.values()}, _artifacts(state.deployments.values())


def _artifacts(documents: Iterable[bytes]) -> dict[Digest, Artifact]:
    """Return the contents of components that are not on the device already, as those at a file:// address are."""
    found: dict[Digest, Artifact] = {}
    for content in documents:
        try:
            extension = own_extension(read_as(ApplicationDeployment, read_source(content, "deployment.yaml")))
        except (InvalidDocument, UnreadableDocument, DeploymentUnusable):
            continue  # the device says what is wrong with it
        artifacts = extension.artifacts if extension is not None else ()
        found |= {each.digest: each for each in artifacts if not each.url.startswith("file:")}
    return found


def _before(
    objects: StateObjects, tip: str, revision: str | None
) -> tuple[str | None, Mapping[str, frozenset[Digest]]]:
    """Return the commit of `since`, and the digests of what each device needed then, by encoded id."""
    if revision is None:
        return None, {}
    commit = objects.resolve(revision)
    if commit is None or commit not in objects.branch(tip):
        raise BundleNotMade(
            f"{revision} is not a commit of {FLEET_REF}",
            remedy="name the stateCommit of the bundle that the site has, in its bundle.json",
        )
    places = objects.places(objects.links(commit).tree)
    found = {}
    for encoded in places:
        held = objects.held(places, encoded)
        if held is not None:
            try:
                listed = listed_deployments(held.manifest)[1]
                documents = [each for name in listed if (each := held.deployment(name)) is not None]
                found[encoded] = frozenset({*map(Digest, listed.values()), *_artifacts(documents)})
            except ValueError as error:
                raise StateTampered(f"{MANIFEST_FILE} of {device_of(encoded)} cannot be read") from error
    return commit, found

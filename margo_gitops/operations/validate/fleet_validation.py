"""Validate: everything that can be checked without writing, in one run.

VALIDATE-1  An error here is a refusal of `render` (except VALIDATE-5 and -6), and what `render` refuses is an error
            here (immutable settings only where the state repo is given).
VALIDATE-2  A warning is what is not pinned: the same commit may run something else tomorrow.
VALIDATE-3  The fleet's policy applies (docs/policy.md): always to applications and where their content comes from; to
            freezes, signatures and reviews of a change where its first commit is named.
VALIDATE-4  `--since REV` shows a finding if its file changed since REV, or if REV did not have it: what the change
            causes elsewhere is shown, older findings elsewhere are not.
VALIDATE-5  A compose file that cannot run is an error here and for `app add`, and not for `render`: what the Compose
            specification says grows, and a commit that was rendered once must render again to be proved.
VALIDATE-6  What a device will refuse by its policy is an error here, and not for `render`; what the default policy
            refuses is a warning for a device whose document says nothing (docs/workload-policy.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_gitops.catalog.compose_check import fleet_compose_findings
from margo_gitops.catalog.compose_images import ServiceImage, pinning_rule, service_images
from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import find_fleet, read_fleet_document
from margo_gitops.catalog.fleet_part import find_part
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.documents.components import Component
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_policy import Silence
from margo_gitops.errors import (
    Finding,
    FleetInvalid,
    Location,
    NoFleetRepo,
    TrustRefused,
    UnreadableDocument,
)
from margo_gitops.operations.content_sources import image_name, placed_of
from margo_gitops.operations.fleet_input import named_location, open_state
from margo_gitops.operations.policies.policy_history import Span
from margo_gitops.operations.render.fleet_render import without_collections
from margo_gitops.operations.validate.device_policies import refused_by_devices
from margo_gitops.operations.validate.policy_findings import idle_silences, policy_of_change, policy_of_content
from margo_gitops.operations.validate.rule_findings import (
    RuleFinding,
    Validation,
    make_validation,
    of_error,
    of_finding,
    of_rule,
)
from margo_gitops.rendering.desired_state import PreviousState
from margo_gitops.rendering.explanation import check_intent
from margo_gitops.rendering.intent import Application, Intent
from margo_gitops.rendering.placement import TargetDevice, nearest, selected, targets
from margo_gitops.rendering.resolution import Resolved

WORKING_TREE = "working tree"


@dataclass(frozen=True, slots=True)
class ValidateRequest:
    """What to validate.

    Attributes:
        revision: a commit; None: the files as they are now.
        since: show only findings of the change since this commit; None: all.
        state: the state repo, for settings that may not change; None: they are not checked.
        cache: a folder for mirrors of remote state repos.
        at: the date of files that are not committed, for freezes, in seconds since 1970-01-01 UTC.
        before_merge: whether reviews, and the merge with its signature, are still to come.
    """

    fleet: Path
    revision: str | None
    since: str | None
    state: str | None
    cache: Path
    at: int = 0
    before_merge: bool = False


def validate_fleet(request: ValidateRequest) -> Validation:
    """Return everything that is wrong with a fleet repo.

    Raises:
        NoFleetRepo, FleetCommitUnknown: there is no such repo or commit.
        MargoGitopsError: the state repo cannot be read.
    """
    repo = FleetRepo.find(request.fleet)
    subject = repo.last_change(request.revision).id if request.revision is not None else WORKING_TREE
    since = repo.commit(request.since).id if request.since is not None else None
    span = Span(repo, subject if request.revision is not None else None, since, named=since is not None, at=request.at)
    tree = _tree(repo, request.revision)
    with _previous(request) as previous, without_collections():
        findings = list(_findings(tree, previous, span))
        if since is not None:
            changed = repo.changed_files(since, request.revision)
            known = {each.identity for each in _findings_before(repo, since, previous)}
            findings = [each for each in findings if _is_changed(each, changed) or each.identity not in known]
            findings += policy_of_change(tree, span, before_merge=request.before_merge)
    return make_validation(subject, since, findings, _silences(tree))


def validate_tree(tree: RootTree, subject: str, device: str | None = None) -> Validation:
    """Return all that is wrong with a fleet repo's files, in any tree (NoFleetRepo: no `margo-gitops.yaml`).

    Args:
        device: read what this one needs alone; None: all.
    """
    clients = {client_of(device)} if device is not None else None
    with without_collections():
        findings = list(_findings(tree, lambda _device: None, None, clients))
    return make_validation(subject, None, findings, _silences(tree))


def _silences(tree: RootTree) -> Sequence[Silence]:
    try:
        policy = read_fleet_document(tree).value.spec.policy
    except (FleetInvalid, NoFleetRepo):
        return ()
    return policy.silenced if policy else ()


def _is_changed(finding: RuleFinding, changed: frozenset[str]) -> bool:
    if finding.file is None or finding.file in changed:
        return True
    # Some findings are of a package's folder.
    return any(path.startswith(f"{finding.file}/") for path in changed)


Previous = Callable[[str], PreviousState | None]


@contextmanager
def _previous(request: ValidateRequest) -> Iterator[Previous]:
    if request.state is None:
        yield lambda _device: None
        return
    with open_state(named_location(request.state), request.cache, create=False) as target:
        values = target.repo.refs.read()
        yield lambda device: target.repo.held(device, values)


def _tree(repo: FleetRepo, revision: str | None) -> RootTree:
    return repo.working_tree() if revision is None else repo.tree(revision)


def _findings_before(repo: FleetRepo, since: str, previous: Previous) -> Iterator[RuleFinding]:
    try:
        yield from _findings(_tree(repo, since), previous, None)
    except NoFleetRepo:
        return


def _findings(
    tree: RootTree, previous: Previous, span: Span | None, clients: Collection[str] | None = None
) -> Iterator[RuleFinding]:
    try:
        intent, found = find_fleet(tree) if clients is None else find_part(tree, clients)
    except UnreadableDocument as error:  # folders in folders in folders: nothing was read
        yield of_error(error)
        return
    told = [of_finding(each) for each in found]
    if intent is not None:
        checked = check_intent(intent, previous, _unread(found))
        told += map(of_error, checked.errors)
        for application in intent.applications.values():
            told += map(of_finding, fleet_compose_findings(tree, application))
        told += _of_keys(tree, intent)
        told += _unpinned(tree, intent, checked.resolved)
        told += refused_by_devices(tree, intent, placed_of(checked.resolved))
        told += policy_of_content(tree, intent, checked.resolved, span)
        if not checked.errors:
            told += _idle_overlays(intent, checked.resolved)
        told += idle_silences(intent, told)
    yield from told


def _of_keys(tree: RootTree, intent: Intent) -> Iterator[RuleFinding]:
    """Yield what is wrong with the fleet's trust documents (fleet_trust, KEYS-1, KEYS-2)."""
    try:
        chain = read_chain(tree, intent.fleet.value.metadata.name)
    except (TrustRefused, UnreadableDocument) as error:
        yield of_error(error)
        return
    if chain is not None and chain.missing is not None:
        yield of_error(chain.missing, "warning" if chain.versions else "error")


def _idle_overlays(intent: Intent, resolved: Sequence[Resolved]) -> Iterator[RuleFinding]:
    """Yield the overlays that match none of the devices that their deployment goes to."""
    reached: dict[str, list[TargetDevice]] = {}
    for each in resolved:
        reached.setdefault(each.deployment.value.metadata.name, []).append(each.target)
    for name, devices in reached.items():
        deployment = intent.deployments[name]
        for index, overlay in enumerate(deployment.value.spec.overlays):
            if not any(selected(overlay.match, device) for device in devices):
                where = deployment.at("spec", "overlays", index, "match")
                remedy = "; ".join(nearest(overlay.match, targets(intent))) or "correct it, or remove the overlay"
                message = f"the overlay {overlay.name} matches no device of the deployment {name}"
                yield of_rule("R109", message, where, remedy)


_KINDS = {
    "sites": "site",
    "devices": "device",
    "deployments": "deployment",
    "applications": "application",
    LOCK_FILE: "application",
}


def _unread(findings: list[Finding]) -> frozenset[str]:
    """Return the kinds of which some documents could not be read."""
    files = [each.location.file for each in findings if each.severity == "error" and each.location]
    return frozenset(_KINDS[top] for file in files if (top := file.split("/")[0].lower()) in _KINDS)


_PIN = {
    "R201": ("names what moves", "name a version and its digest, image:1.2.3@sha256:…"),
    "R202": ("has no digest", "add it: image:1.2.3@sha256:…"),
}


def _unpinned(tree: RootTree, intent: Intent, resolved: tuple[Resolved, ...]) -> Iterator[RuleFinding]:
    """Yield what is not pinned: of every vendored application, then of values that name images."""
    variable: dict[tuple[int, str], list[ServiceImage]] = {}
    for application in intent.applications.values():
        yield from _application_images(tree, application, variable)
    seen: set[tuple[str, Location]] = set()
    for each in resolved:
        for component in each.profile.components:
            for image in variable.get((id(each.application), component.name), ()):
                yield from _unpinned_value(each, component, image, seen)


def _application_images(
    tree: RootTree, application: Application, variable: dict[tuple[int, str], list[ServiceImage]]
) -> Iterator[RuleFinding]:
    description = application.description
    seen: set[str] = set()
    for index, profile in enumerate(description.value.deployment_profiles):
        for at, component in enumerate(profile.components):
            if component.name in seen:
                continue
            seen.add(component.name)
            content = application.contents.get(component.name)
            if content is None:
                where = description.at("deploymentProfiles", index, "components", at, "properties")
                yield _of_registry(component, where)
            elif profile.type == "compose" and "://" in content.location:
                where = description.at("deploymentProfiles", index, "components", at)
                message = f"component {component.name} is at {content.location}: its images are not checked"
                yield of_rule("R207", message, where, "bring the content along in the package")
            elif profile.type == "compose":
                try:
                    images = service_images(tree, content)
                except UnreadableDocument:
                    continue  # VALIDATE-5 says so
                for image in images:
                    if image.variables():
                        variable.setdefault((id(application), component.name), []).append(image)
                    else:
                        yield from _unpinned_image(image)


def _of_registry(component: Component, where: Location) -> RuleFinding:
    properties = component.properties
    if properties.repository is None:
        return of_rule(
            "R205",
            f"component {component.name} is fetched from {properties.package_location} without a digest",
            where,
            "bring the content along, or name it by url and digest",
        )
    return of_rule(
        "R206",
        f"component {component.name} is fetched by the tag {properties.revision}",
        where,
        "forbid the registry to move tags, or bring the content along",
    )


def _unpinned_image(image: ServiceImage) -> Iterator[RuleFinding]:
    if image.image is None:
        yield of_rule(
            "R203",
            f"service {image.service} builds its image on the device",
            image.location,
            "build it once, push it, and name it with its digest",
        )
        return
    name = image.named({})
    if rule := pinning_rule(name):
        what, remedy = _PIN[rule]
        yield of_rule(rule, f"service {image.service}: the image {name} {what}", image.location, remedy)


def _unpinned_value(
    resolved: Resolved, component: Component, image: ServiceImage, seen: set[tuple[str, Location]]
) -> Iterator[RuleFinding]:
    """Yield an image whose name comes from parameters, at the place where the value is written."""
    name, parameter = image_name(resolved.parameters, component, image)
    rule = pinning_rule(name)
    if rule is None:
        return
    where = parameter.location if parameter else image.location
    if (name, where) not in seen:
        seen.add((name, where))
        what, remedy = _PIN[rule]
        yield of_rule(rule, f"service {image.service}: the image {name} {what}", where, remedy)

"""Where the content of deployments comes from: images that vendored compose files name, charts, archives at a URL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping

from margo_gitops.catalog.compose_images import ServiceImage, service_images
from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.digests import Digest
from margo_gitops.documents.application import DeploymentProfile
from margo_gitops.documents.components import Component
from margo_gitops.documents.compose_variables import parameter_text, variable_name
from margo_gitops.errors import UnreadableDocument
from margo_gitops.rendering.explanation import CheckedDocument
from margo_gitops.rendering.intent import Application, ComponentContent, Intent
from margo_gitops.rendering.parameters import Effective
from margo_gitops.rendering.policies.sources import Deployed, Source
from margo_gitops.rendering.render import PlacementsByDevice, resolve_placement
from margo_gitops.rendering.skeletons import Skeleton
from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Placed:
    """A deployment on a device.

    Attributes:
        skeleton: what its document has in common with those of other devices; None: not known.
    """

    deployed: Deployed
    application: Application
    profile: DeploymentProfile
    parameters: Callable[[], tuple[Effective, ...]]
    skeleton: Skeleton | None = None

    def same(self, component: Component, variables: Collection[str]) -> Hashable | None:
        """Return what is equal where these variables of a component have the same values; None: it is not known."""
        skeleton = self.skeleton
        return skeleton if skeleton is not None and not skeleton.differs_in(component.name, variables) else None


def placed(intent: Intent, placements: PlacementsByDevice) -> Iterator[Placed]:
    """Yield every deployment on every device of a fleet that can be rendered."""
    for on_device in placements.values():
        for placement in on_device.values():
            yield Placed(
                Deployed(placement.deployment, placement.target.site, placement.target.id),
                placement.application,
                placement.profile,
                lambda placement=placement: resolve_placement(intent, placement, None)[0].parameters,  # type: ignore[misc]
            )


def placed_of(documents: Iterable[CheckedDocument]) -> Iterator[Placed]:
    """Yield every deployment on every device, as far as they could be resolved."""
    for each in documents:
        placement = each.placement
        target = placement.target
        deployed = Deployed(placement.deployment, target.site, target.id)
        yield Placed(deployed, placement.application, placement.profile, each.parameters, each.skeleton)


def deployed(every: Iterable[Placed]) -> list[Deployed]:
    """Return each deployment once for each site."""
    found: dict[tuple[str, str | None], Deployed] = {}
    for each in every:
        found.setdefault((each.deployed.deployment.value.metadata.name, each.deployed.site), each.deployed)
    return list(found.values())


@dataclass(slots=True)
class Images:
    """The images of vendored content; every compose file is read once."""

    tree: FileTree
    _found: dict[str, list[ServiceImage] | UnreadableDocument] = field(default_factory=dict)

    def of(self, content: ComponentContent) -> list[ServiceImage]:
        """Return the images that a vendored component names (UnreadableDocument: no usable compose file)."""
        if content.location not in self._found:
            try:
                self._found[content.location] = service_images(self.tree, content)
            except UnreadableDocument as error:
                self._found[content.location] = error
        found = self._found[content.location]
        if isinstance(found, UnreadableDocument):
            raise found
        return found


def image_name(
    parameters: Iterable[Effective], component: Component, image: ServiceImage
) -> tuple[str, Effective | None]:
    """Return an image's name with the values of parameters in it, and the parameter; None where it names none."""
    named = image.variables()
    environment: dict[str, str] = {}
    found = None
    for parameter in parameters:
        for target in parameter.targets:
            name = variable_name(target.pointer)
            if name in named and component.name in target.components:
                environment[name] = parameter_text(parameter.value)
                found = parameter
    return image.named(environment), found


def sources(every: Iterable[Placed], images: Images) -> list[Source]:
    """Return where all content comes from, each source once for each deployment and site.

    What is in the fleet repo comes from the fleet repo, and is not there; what it names is.
    """
    found: dict[tuple[str, str | None, str, str, str], Source] = {}
    seen: set[Hashable] = set()
    for each in every:
        name, site = each.deployed.deployment.value.metadata.name, each.deployed.site
        fixed = (name, site, each.profile.id) not in seen
        seen.add((name, site, each.profile.id))
        for component in each.profile.components:
            for source in _of_component(each, component, images, seen, fixed=fixed):
                found.setdefault((name, site, source.what, source.reference, str(source.where)), source)
    return list(found.values())


def _of_component(
    each: Placed, component: Component, images: Images, seen: set[Hashable], *, fixed: bool
) -> Iterator[Source]:
    content = each.application.contents.get((each.profile.type, component.name))
    what = f"component {component.name}"
    if content is None:
        if fixed:
            properties = component.properties
            yield Source(each.deployed, what, properties.repository or properties.package_location or "")
    elif "://" in content.location:
        if fixed:
            yield Source(each.deployed, what, content.location)
    elif each.profile.type == "compose":
        yield from _of_images(each, component, content, images, seen, fixed=fixed)


def _of_images(
    each: Placed, component: Component, content: ComponentContent, images: Images, seen: set[Hashable], *, fixed: bool
) -> Iterator[Source]:
    try:
        found = images.of(content)
    except UnreadableDocument as error:
        if fixed:
            problem = f"names images that are not known ({error.what})"
            yield Source(each.deployed, f"component {component.name}", "", named_at=error.where, problem=problem)
        return
    for image in found:
        what = f"the image of service {image.service}"
        if variables := image.variables():
            same = each.same(component, variables)
            key = (each.deployed.site, same, component.name, image.service)
            if same is not None and key in seen:
                continue
            seen.add(key)
            name, parameter = image_name(each.parameters(), component, image)
            where = parameter.location if parameter else None
            problem = "" if name else "has no name"
            yield Source(each.deployed, what, name, where, image.location, problem)
        elif fixed:
            problem = "is built on the device, from an unknown source" if image.image is None else ""
            yield Source(each.deployed, what, image.named({}), None, image.location, problem)


def content_by_digest(intent: Intent) -> Mapping[Digest, ComponentContent]:
    """Return the content of every vendored application, by its digest."""
    return {
        content.digest: content
        for application in intent.applications.values()
        for content in application.contents.values()
    }

"""Whether the documents of a fleet repo fit together: everything they name exists."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment, Device, Site
from margo_gitops.errors import Location, MargoGitopsError, ReferenceUnknown
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.wording import did_you_mean, one

SHARED_PARAMETER = "parameter of any application"


def broken_references(intent: Intent) -> Iterator[MargoGitopsError]:
    """Yield everything that a document names and no document defines."""
    for device_id, device in intent.devices.items():
        site = device.value.spec.site
        if site is not None and site not in intent.sites:
            yield _unknown("site", site, intent.sites, device.at("spec", "site"))
        if client_of(device_id) not in intent.devices:
            yield _of_kind(
                "device",
                ReferenceUnknown(
                    f"device {device_id} is a child of {client_of(device_id)}, which is not a device of this fleet",
                    where=device.at("metadata", "name"),
                    remedy=f"add a Device {client_of(device_id)}: the gateway pulls the state of its children",
                ),
            )
    for deployment in intent.deployments.values():
        yield from _of_deployment(intent, deployment)
    yield from _shared_parameters(intent)
    yield from _shards(intent)


def _of_deployment(intent: Intent, deployment: Located[Deployment]) -> Iterator[MargoGitopsError]:
    spec = deployment.value.spec
    yield from _of_selector(intent, deployment, spec.placement, ("spec", "placement"))
    for index, overlay in enumerate(spec.overlays):
        yield from _of_selector(intent, deployment, overlay.match, ("spec", "overlays", index, "match"))
    for key, names in (("after", spec.after), ("stop", spec.stop)):
        for index, name in enumerate(names):
            if name not in intent.deployments:
                yield _unknown("deployment", name, intent.deployments, deployment.at("spec", key, index))

    application = intent.applications.get((spec.application.id, spec.application.version))
    if application is None:
        yield _of_kind("application", _application_error(intent, deployment))
        return
    description = application.description.value
    profiles = [profile.id for profile in description.deployment_profiles]
    for index, profile in enumerate(spec.profiles):
        if profile not in profiles:
            yield _unknown("profile", profile, profiles, deployment.at("spec", "profiles", index))
    yield from _own_parameters(deployment, description)


def _application_error(intent: Intent, deployment: Located[Deployment]) -> ReferenceUnknown:
    wanted = deployment.value.spec.application
    versions = sorted(version for name, version in intent.applications if name == wanted.id)
    if versions:
        return ReferenceUnknown(
            f"there is no version {wanted.version} of the application {wanted.id}",
            where=deployment.at("spec", "application", "version"),
            why=[f"versions in this fleet repo: {', '.join(versions)}"],
            remedy="add it with `margo-gitops app add PATH`, or name one of these",
        )
    error = _unknown(
        "application",
        wanted.id,
        {name for name, _ in intent.applications},
        deployment.at("spec", "application", "id"),
    )
    return ReferenceUnknown(
        error.what, where=error.where, why=error.why, remedy=error.remedy or "add it with `margo-gitops app add PATH`"
    )


def _of_selector(
    intent: Intent, deployment: Located[Deployment], selector: DeviceSelector, path: tuple[str | int, ...]
) -> Iterator[MargoGitopsError]:
    for index, device in enumerate(selector.devices):
        if device not in intent.devices and not intent.leaves_out(device):
            yield _unknown("device", device, intent.devices, deployment.at(*path, "devices", index))
    for index, site in enumerate(selector.sites):
        if site not in intent.sites:
            yield _unknown("site", site, intent.sites, deployment.at(*path, "sites", index))


def _own_parameters(deployment: Located[Deployment], description: ApplicationDescription) -> Iterator[MargoGitopsError]:
    spec = deployment.value.spec
    layers: list[tuple[tuple[str | int, ...], Collection[str]]] = [(("spec", "parameters"), spec.parameters)]
    layers.append((("spec", "secretRefs"), spec.secret_refs))
    layers += [(("spec", "overlays", at, "parameters"), each.parameters) for at, each in enumerate(spec.overlays)]
    for path, names in layers:
        for name in names:
            if name not in description.parameters:
                where = deployment.at_key(*path, name)
                error = _unknown(f"parameter of {description.id}", name, description.parameters, where)
                if path == ("spec", "parameters"):
                    target = f"{description.id} --name {deployment.value.metadata.name}"
                    error.remedy += f"; or remove it: margo-gitops deploy {target} --unset {name}"
                yield error


def _shared_parameters(intent: Intent) -> Iterator[MargoGitopsError]:
    """Yield parameters of sites and devices that no application of the fleet has."""
    known = known_parameters(intent)
    documents: list[Located[Site] | Located[Device]] = [*intent.sites.values(), *intent.devices.values()]
    for document in documents:
        for name in document.value.spec.parameters:
            if name not in known:
                where = document.at_key("spec", "parameters", name)
                yield _unknown(SHARED_PARAMETER, name, known, where)


def _shards(intent: Intent) -> Iterator[MargoGitopsError]:
    """Yield sites of shards that do not exist or are in two, and sites with devices that no shard has."""
    fleet = intent.fleet
    shards = fleet.value.spec.shards
    named: dict[str, str] = {}
    for name, shard in shards.items():
        for index, site in enumerate(shard.sites):
            where = fleet.at("spec", "shards", name, "sites", index)
            if site not in intent.sites:
                yield _unknown("site", site, intent.sites, where)
            if (other := named.setdefault(site, name)) != name:
                what = f"site {site} is in the shards {other} and {name}"
                yield _of_kind("shard", ReferenceUnknown(what, where=where, remedy="name it in one of them"))
    rests = [name for name, shard in shards.items() if not shard.sites]
    if len(rests) > 1:
        what = f"the shards {rests[0]} and {rests[1]} both have the sites that no other shard names"
        where = fleet.at("spec", "shards", rests[1])
        yield _of_kind("shard", ReferenceUnknown(what, where=where, remedy="name the sites of one of them"))
    if shards and not rests:
        here = {device.value.spec.site for name, device in intent.devices.items() if client_of(name) == name}
        for missing in sorted(here - named.keys(), key=str):
            what = f"no shard has the devices {f'of site {missing}' if missing else 'without a site'}"
            remedy = "name the site in a shard, or add a shard without sites: it gets all others"
            yield _of_kind("shard", ReferenceUnknown(what, where=fleet.at("spec", "shards"), remedy=remedy))


def known_parameters(intent: Intent) -> frozenset[str]:
    """Return every parameter of any application of a fleet."""
    applications = intent.applications.values()
    return frozenset(name for each in applications for name in each.description.value.parameters)


def _unknown(what: str, name: str, known: Collection[str], where: Location) -> ReferenceUnknown:
    remedy = did_you_mean(name, known) if known else ""
    return _of_kind(what, ReferenceUnknown(f"{name} is not {one(what)}", where=where, remedy=remedy))


def _of_kind(kind: str, error: ReferenceUnknown) -> ReferenceUnknown:
    error.kind = kind
    return error

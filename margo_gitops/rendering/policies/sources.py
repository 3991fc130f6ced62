"""Whether applications may be deployed where they are, and whether their content comes from where it may."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from margo_gitops.documents.content_places import below, place_of
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.fleet_policy import AllowedApplication
from margo_gitops.documents.versions import in_range
from margo_gitops.errors import ApplicationNotAllowed, Location, MargoGitopsError, RegistryNotAllowed
from margo_gitops.rendering.changes import PolicyPart
from margo_gitops.rendering.intent import Located
from margo_gitops.rendering.policies.facts import PolicyInForce, Verdict
from margo_gitops.values import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment at a site; one for all of its devices there.

    Attributes:
        site: the name; None for devices without a site.
    """

    deployment: Located[Deployment]
    site: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a deployment's content comes from.

    Attributes:
        deployed: what uses it, and where.
        what: for people: "the image of service hmi", "component press-hmi".
        reference: an image's name, an `oci://` reference or a URL; empty where that is not known.
        where: the line to change; None: the deployment's.
        named_at: where the reference is written, where that is another line.
    """

    deployed: Deployed
    what: str
    reference: str
    where: Location | None = None
    named_at: Location | None = None
    problem: str = ""


def judge_applications(policies: Sequence[PolicyInForce], deployed: Iterable[Deployed]) -> Verdict | None:
    """Return whether every application may be deployed where it is; None where no policy lists any."""
    ruled = [force for force in policies if force.policy.applications]
    passed = "every application is allowed where it is deployed"
    return _verdict("applications", ruled, deployed, _application_refusal, passed, "applications that are not allowed")


def _verdict(
    part: PolicyPart,
    policies: Sequence[PolicyInForce],
    every: Iterable[T],
    refusal: Callable[[PolicyInForce, T], MargoGitopsError | None],
    passed: str,
    refused: str,
) -> Verdict | None:
    """Return what policies say, each reason once however many policies and devices have it; None for no policy."""
    if not policies:
        return None
    reasons: dict[tuple[str, str], MargoGitopsError] = {}
    known = list(every)
    for force in policies:
        for each in known:
            error = refusal(force, each)
            if error is not None:
                reasons.setdefault((error.what, str(error.where)), error)
    return Verdict(part, "refused", refused, tuple(reasons.values())) if reasons else Verdict(part, "passed", passed)


def _application_refusal(force: PolicyInForce, deployed: Deployed) -> ApplicationNotAllowed | None:
    rules = force.policy.applications
    if rules is None:
        return None
    allowed, named = _of_site(rules.sites, rules.default, deployed.site)
    wanted = deployed.deployment.value.spec.application
    if allowed is None or any(_allows(each, wanted.id, wanted.version) for each in allowed):
        return None
    known = [each for each in allowed if _matches(each.id, wanted.id)]
    what = f"{wanted.id} {wanted.version}" if known else wanted.id
    field = "version" if known else "id"
    listed = ", ".join(f"{each.id} {each.versions}".strip() for each in known or allowed) or "nothing"
    return ApplicationNotAllowed(
        f"{what} may not be deployed {_at(deployed.site)}",
        where=deployed.deployment.at("spec", "application", field),
        why=[f"allowed there: {listed} ({force.at('applications', *named)})", *force.origin()],
        remedy="deploy what is allowed, or allow this in a change of its own",
    )


def _allows(allowed: AllowedApplication, name: str, version: str) -> bool:
    return _matches(allowed.id, name) and (not allowed.versions or in_range(version, allowed.versions))


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def _at(site: str | None) -> str:
    return f"at site {site}" if site else "on devices without a site"


def _of_site(sites: Mapping[str, T], default: T | None, site: str | None) -> tuple[T | None, tuple[str, ...]]:
    """Return what holds at a site, and the path where that is written."""
    if site is not None and site in sites:
        return sites[site], ("sites", site)
    return default, ("default",)


def judge_registries(policies: Sequence[PolicyInForce], sources: Iterable[Source]) -> Verdict | None:
    """Return whether all content comes from where it may; None where no policy says where.

    Args:
        sources: of every deployment at every site; asked only where a policy says where.
    """
    ruled = [force for force in policies if force.policy.registries]
    passed = "all content comes from allowed places"
    return _verdict("registries", ruled, sources, _registry_refusal, passed, "content from places that are not allowed")


def _registry_refusal(force: PolicyInForce, source: Source) -> RegistryNotAllowed | None:
    rules = force.policy.registries
    if rules is None:
        return None
    deployed = source.deployed
    allowed, named = _of_site(rules.sites, rules.default, deployed.site)
    if allowed is None:
        return None
    place = place_of(source.reference) if source.reference else ""
    if place and not source.problem and any(below(place, each) for each in allowed):
        return None
    deployment = deployed.deployment
    application = deployment.value.spec.application
    what = f"{source.what} of {application.id} {application.version}"
    told = source.problem or f"comes from {place}"
    written = [f"it is written at {source.named_at}"] if source.named_at else []
    return RegistryNotAllowed(
        f"{what} {told}, which is not allowed {_at(deployed.site)}",
        where=source.where or deployment.at("spec", "application"),
        why=[
            *written,
            f"allowed there: {', '.join(allowed) or 'nothing'} ({force.at('registries', *named)})",
            *force.origin(),
        ],
        remedy="take the content from an allowed place, or allow this one in a change of its own",
    )

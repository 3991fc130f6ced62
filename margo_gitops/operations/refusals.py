"""Reasons of a refusal as a plan tells them: a value for each, and the devices that cannot take what is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from margo_gitops.documents.device_id import client_of
from margo_gitops.errors import Finding, FleetInvalid, InvalidDocument, MargoGitopsError, RenderingRefused
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.plan import PolicyVerdict, Refusal, SiteRefusal
from margo_gitops.rendering.policies.facts import Verdict


def reasons(error: FleetInvalid | RenderingRefused) -> Sequence[MargoGitopsError | Finding]:
    """Return every reason of a refusal."""
    return error.findings if isinstance(error, FleetInvalid) else error.errors


def refusals(error: FleetInvalid | RenderingRefused) -> tuple[Refusal, ...]:
    """Return every reason of a refusal, as a plan tells it."""
    return tuple(map(refusal, reasons(error)))


def refusal(reason: MargoGitopsError | Finding) -> Refusal:
    """Return one reason, as a plan tells it."""
    why: tuple[str, ...]
    device: str | None
    if isinstance(reason, Finding):
        where, rule, why, device = reason.location, reason.rule or InvalidDocument.code, (), None
        message = f"{reason.path}: {reason.message}" if reason.path else reason.message
    else:
        where, rule, why, device, message = reason.where, reason.code, reason.why, reason.device, reason.what
    return Refusal(
        rule=rule,
        message=message,
        file=where.file if where else None,
        line=where.line if where else None,
        column=where.column if where else None,
        device=device,
        why=why,
        remedy=reason.remedy,
    )


def verdict(found: Verdict) -> PolicyVerdict:
    """Return what a policy says, as a plan tells it."""
    return PolicyVerdict(
        part=found.part, outcome=found.outcome, message=found.message, reasons=tuple(map(refusal, found.reasons))
    )


def cannot_take(found: Iterable[Refusal], intent: Intent) -> tuple[SiteRefusal, ...]:
    """Return the devices that refusals name, by site; a gateway's child is at the gateway's site."""
    sites: dict[str | None, set[str]] = {}
    for each in found:
        if each.device is not None and each.device in intent.devices:
            client = client_of(each.device)
            place = intent.devices.get(client, intent.devices[each.device])
            sites.setdefault(place.value.spec.site, set()).add(each.device)
    return tuple(SiteRefusal(site, tuple(sorted(sites[site]))) for site in sorted(sites, key=lambda name: name or ""))

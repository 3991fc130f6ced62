"""The catalog for a terminal: the list, the page of an application, and which devices could take it.

Five devices or five thousand: counts by site come first, then each reason once with the number of devices it keeps out,
then the devices, cut unless somebody asks for the details. What suppliers write is printed without control characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from margo_gitops.documents.components import ParameterValue
from margo_gitops.operations.application_catalog import (
    ApplicationCatalog,
    CatalogPage,
    ListedApplication,
    ShownProfile,
    ShownSetting,
)
from margo_gitops.operations.compatibility import Compatibility, DeviceCompatibility, SiteCompatibility
from margo_gitops.wording import counted, few, json_text, table_lines

SHOWN: Final = 20
"""Reasons, and devices, that are shown without --details."""

_NAMED: Final = 3
_HEADING: Final = ("application", "newest", "versions", "profiles", "devices", "about")


def list_lines(catalog: ApplicationCatalog) -> Iterator[str]:
    """Yield a line for each application, below a heading."""
    if not catalog.applications:
        yield "no applications yet: margo-gitops app add PATH"
        return
    yield from table_lines([_HEADING, *map(_listed, catalog.applications)])


def _listed(each: ListedApplication) -> tuple[str, ...]:
    types = ", ".join(dict.fromkeys(profile.type for profile in each.profiles))
    about = f"{each.name}: {each.tagline}" if each.tagline else each.name
    return each.id, each.newest, str(len(each.versions)), types, str(each.devices), about


def page_lines(page: CatalogPage) -> Iterator[str]:
    """Yield everything that is shown of an application."""
    yield f"{page.id} {page.version}: {page.name}"
    yield from _indented(page.tagline)
    if page.description != page.tagline:
        yield from _indented(page.description)
    yield ""
    yield from (f"  {name:<13} {value}" for name, value in _facts(page) if value)
    for profile in page.profiles:
        yield ""
        yield from _profile(profile)
    for section in page.sections:
        yield ""
        yield f"{section.name}"
        for setting in section.settings:
            yield from _setting(setting)


def _indented(text: str | None) -> Iterator[str]:
    return (f"  {line}".rstrip() for line in (text or "").splitlines())


def _facts(page: CatalogPage) -> Iterator[tuple[str, str | None]]:
    yield "by", ", ".join(f"{each.name} ({each.site})" if each.site else each.name for each in page.organizations)
    authors = (f"{each.name} <{each.email}>" if each.name and each.email else each.name or each.email
               for each in page.authors)  # fmt: skip
    yield "author", ", ".join(filter(None, authors))
    yield "site", page.site
    yield "tags", ", ".join(page.tags)
    yield "read more", page.description_file
    yield "release notes", page.release_notes
    yield "icon", page.icon
    yield "licence", page.license_file
    yield "versions", ", ".join(page.versions)
    yield "digest", page.digest
    deployed = (f"{each.name} {each.version} on {counted(each.devices, 'device')}" for each in page.deployments)
    yield "deployed", ", ".join(deployed) or "nowhere"


def _profile(profile: ShownProfile) -> Iterator[str]:
    yield f"profile {profile.id} ({profile.type}): {', '.join(profile.components)}"
    yield from _indented(profile.description)
    yield from (f"  needs {need}" for need in profile.needs)


def _setting(setting: ShownSetting) -> Iterator[str]:
    title = f"  {setting.parameter}"
    if setting.name != setting.parameter:
        title += f': "{setting.name}"'
    yield title + ("  (immutable: may not change after the first installation)" if setting.immutable else "")
    yield from (f"    {line}" for line in (setting.description or "").splitlines())
    if setting.limits:
        yield f"    {setting.limits}"
    yield f"    default {shown_value(setting.default)}"


def shown_value(value: ParameterValue | None) -> str:
    """Return a parameter's value as it is shown; "none" for None."""
    return "none" if value is None else json_text(value)


def compatibility_lines(found: Compatibility, *, details: bool = False) -> Iterator[str]:
    """Yield which devices could take an application, and why the others could not."""
    counts = found.counts
    have = f"{counts.deployed} {'has' if counts.deployed == 1 else 'have'} it"
    taking = f"{counts.compatible} of {counted(counts.devices, 'device')} could take it"
    yield f"{found.application} {found.version}: {taking}, {have}"
    if not found.devices:
        return
    yield ""
    yield from _site_table(found)
    if not details and (refused := list(refusal_lines(found))):
        yield from ("", *refused)
    yield ""
    shown = found.devices if details else found.devices[:SHOWN]
    rows = [(_place(each), " or ".join(each.profiles) or "-", ", ".join(each.deployments) or "-") for each in shown]
    lines = table_lines([("device", "could run", "has"), *rows])
    yield f"  {next(lines)}"
    for each, line in zip(shown, lines, strict=True):
        yield f"  {line}"
        if details:
            yield from (f"      {reason}" for reason in each.reasons)
    if len(shown) < len(found.devices):
        yield f"  and {counted(len(found.devices) - len(shown), 'more device')}: see them with --details"


def refusal_lines(found: Compatibility) -> Iterator[str]:
    """Yield why devices cannot take an application, each set of reasons once; nothing where all can."""
    refused = [each for each in found.devices if not each.compatible]
    if refused:
        yield "cannot take it"
        yield from _reasons(refused)


def _site_table(found: Compatibility) -> Iterator[str]:
    profiles = list(found.counts.profiles)
    rows = [_site_row(each.site or "(no site)", each, profiles) for each in found.sites]
    if len(rows) > 1:
        rows.append(_site_row("all sites", found.counts, profiles))
    heading = ("site", "devices", "could take it", "has it", *profiles)
    yield from (f"  {line}" for line in table_lines([heading, *rows]))


def _site_row(name: str, counts: SiteCompatibility, profiles: Sequence[str]) -> tuple[str, ...]:
    numbers = (counts.devices, counts.compatible, counts.deployed, *(counts.profiles.get(each, 0) for each in profiles))
    return (name, *map(str, numbers))


def _reasons(refused: Sequence[DeviceCompatibility]) -> Iterator[str]:
    """Yield each set of reasons once, that of the most devices first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for each in refused:
        groups.setdefault(each.reasons, []).append(_place(each))
    most_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    for reasons, devices in most_first[:SHOWN]:
        yield f"  {counted(len(devices), 'device')}: {few(devices, _NAMED)}"
        yield from (f"    {reason}" for reason in reasons)
    if len(most_first) > SHOWN:
        yield f"  and {len(most_first) - SHOWN} more reasons: see them with --details"


def _place(each: DeviceCompatibility) -> str:
    return f"{each.site}/{each.device}" if each.site else each.device

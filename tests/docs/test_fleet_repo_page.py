"""docs/fleet-repo.md says of the fleet repo what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from support.fleet import FleetFolder, parameter, values

from margo_gitops.catalog.package import ComponentArtifact
from margo_gitops.documents.fleet_kinds import ApplicationsLock, Deployment, Device, Fleet, Site
from margo_gitops.documents.kinds import check_document, read_source
from margo_gitops.documents.records import iterate_fields
from margo_gitops.errors import RenderingRefused, TemplateInvalid
from margo_gitops.rendering import sandbox, templates
from margo_gitops.rendering.templates import MAX_RESULT, MAX_SOURCE, evaluate

PAGE = (Path(__file__).parents[2] / "docs" / "fleet-repo.md").read_text(encoding="utf-8")
NAMES_TABLE = PAGE[PAGE.index("| Name | Value |") : PAGE.index("<!-- filters -->")]


def records(root: type) -> Iterator[type]:
    """Yield a record class and those it holds, each once."""
    seen: set[type] = set()
    waiting: list[object] = [root]
    while waiting:
        hint = waiting.pop()
        waiting += get_args(hint)
        if isinstance(hint, type) and is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            yield hint
            waiting += get_type_hints(hint, include_extras=True).values()


@pytest.mark.parametrize("kind", [Fleet, Site, Device, Deployment, ApplicationsLock, ComponentArtifact])
def test_every_field_of_every_kind_is_explained(kind: type) -> None:
    missing = [
        f"{record.__name__}.{name}"
        for record in records(kind)
        for name, _, _ in iterate_fields(record)
        if not re.search(rf"`(?:\w+\.)*{name}`", PAGE)
    ]
    assert missing == []


@pytest.mark.parametrize("kind", [Fleet, Site, Device, Deployment, ApplicationsLock])
def test_every_kind_has_a_section_with_a_valid_example(kind: type) -> None:
    section = PAGE[PAGE.index(f"\n### {kind.__name__}\n") :]
    example = section[section.index("```yaml\n") + len("```yaml\n") :].partition("```")[0]
    checked = check_document(read_source(example.encode(), "example.yaml"))
    assert isinstance(checked.value, kind), checked.findings


def test_the_filters_are_the_ones_of_the_sandbox() -> None:
    listed = PAGE[PAGE.index("<!-- filters -->") : PAGE.index("<!-- /filters -->")]
    assert re.findall(r"`(\w+)`", listed) == sorted(sandbox._ENVIRONMENT.filters)


def test_every_name_that_expressions_may_use_is_listed_and_has_a_value(tmp_path: Path) -> None:
    rows = [line.split("|")[1] for line in NAMES_TABLE.splitlines()[2:] if line.startswith("|")]
    listed = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.application(parameters={"p": parameter()})
    fleet.site("north", {"country": "CH"})
    fleet.device("press-01", site="north", labels={"line": 1})
    fleet.deployment("app", parameters={"p": f"{{{{ [{', '.join(f'{name} | string' for name in listed)}] }}}}"})
    shown = values(fleet.render()["press-01"], "app")["p"]
    assert len(shown) == len(listed) == 12

    fleet.deployment("app", parameters={"p": "{{ nothing }}"})
    with pytest.raises(RenderingRefused) as refused:
        fleet.render()
    known = re.search(r"known names: ([\w, ]+);", str(refused.value))
    assert known is not None
    assert known[1].split(", ") == sorted({name.partition(".")[0] for name in listed})


def test_the_rules_of_expressions_are_those_of_the_code() -> None:
    rules = re.findall(r"^(EXPR-\d)  ", templates.__doc__ or "", re.MULTILINE)
    assert re.findall(r"^\| (EXPR-\d) \|", PAGE, re.MULTILINE) == rules
    assert f"{MAX_SOURCE:,} characters, its result {MAX_RESULT:,}" in PAGE


def test_the_expressions_of_the_rules_do_what_the_page_says() -> None:
    names = {"device": {"labels": {"line": 3}}}
    assert evaluate("{{ device.labels.line + 100 }}", names) == 103
    assert evaluate('{{ device.labels.hall | default("none") }}', names) == "none"
    for refused in ('{{ "x".upper() }}', "{{ 'x' * 3 }}", "{% if true %}1{% endif %}", "{{ nothing }}"):
        with pytest.raises(TemplateInvalid):
            evaluate(refused, names)

"""docs/agent.md is the reference: every key, variable and event stands in it, and its example works."""

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.settings import configuration, secret_sources
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.environment import CONFIG_VARIABLE, OVERRIDES, TOKEN_VARIABLE
from margo_gitops.documents.records import iterate_fields, read
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.registry.settings import Registries, RegistryAccess
from margo_gitops.transport.stick.source import StickSettings
from margo_gitops.web.source import WebSource

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"
ROWS = {row.group(1): row.group(0) for row in re.finditer(r"^\| `([^`]+)` \|.*$", PAGE.read_text(), re.MULTILINE)}


def records() -> list[type]:
    modules = (configuration, secret_sources)
    found = (each for module in modules for each in vars(module).values())
    named = [each for each in found if isinstance(each, type) and is_dataclass(each)]
    places, ours = {module.__name__ for module in modules}, (WebSource, StickSettings, Registries)
    return [*(cls for cls in named if cls.__module__ in places or issubclass(cls, ours)), RegistryAccess]


KEYS = sorted(
    {
        key
        for cls in records()
        for key, *_ in iterate_fields(cls)
        if (cls.__name__, key) not in {("SourceSettings", kind) for kind in ("git", "http", "stick")}
    }
)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_documented(key: str) -> None:
    assert key in ROWS


@pytest.mark.parametrize("variable", [*OVERRIDES, CONFIG_VARIABLE, TOKEN_VARIABLE])
def test_every_variable_is_documented_with_the_key_it_overrides(variable: str) -> None:
    assert variable in ROWS
    if variable in OVERRIDES:
        assert f"`{'.'.join(map(str, OVERRIDES[variable]))}`" in ROWS[variable]


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_every_event_is_documented_and_marked(reason: Reason) -> None:
    assert ("| yes |" in ROWS[reason.value]) == reason.security


def test_nothing_is_documented_that_is_not_there() -> None:
    known = {*KEYS, *OVERRIDES, CONFIG_VARIABLE, TOKEN_VARIABLE, *(reason.value for reason in Reason)}
    paths = {row for row in ROWS if "/" in row or "." in row or row == "lock"}
    assert ROWS.keys() - paths == known


def test_the_example_is_a_valid_configuration() -> None:
    example, over_http, reporting = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert read(AgentConfiguration, read_yaml(example.encode(), "agent.yaml")).device == "press-07"
    assert get_type_hints(AgentConfiguration)
    others = re.sub(r"^(source|trust):\n(  .*\n)+", "", example, flags=re.MULTILINE)
    read_over_http, read_reporting = (
        read(AgentConfiguration, read_yaml((others + each).encode(), "agent.yaml")) for each in (over_http, reporting)
    )
    assert read_over_http.source.http is not None
    assert (read_reporting.source.http, read_reporting.reports is None) == (None, False)

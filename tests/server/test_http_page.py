"""docs/http.md is the reference: every key and path stands in it, and its example works."""

import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from server.serving import ServedFleet

from margo_gitops.documents.records import iterate_fields
from margo_gitops.server.contracts import current, older
from margo_gitops.server.routing import Route
from margo_gitops.server.service import configuration
from margo_gitops.server.service.configuration import load_server_configuration

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
SECTION = PAGE.partition("## Configuration")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `([^`]+)` \|", SECTION, re.MULTILINE)


def keys() -> set[str]:
    records = [value for value in vars(configuration).values() if isinstance(value, type) and is_dataclass(value)]
    named = [cls for cls in records if cls.__module__ == configuration.__name__ and "Loaded" not in cls.__name__]
    return {key for cls in named for key, *_ in iterate_fields(cls)}


def test_every_key_is_documented_and_nothing_else() -> None:
    assert sorted(ROWS) == sorted(keys())


def test_the_example_is_a_valid_configuration(tmp_path: Path) -> None:
    found = re.search(r"server.yaml <<CONFIG\n(.*?)CONFIG", PAGE, re.DOTALL)
    assert found
    file = tmp_path / "server.yaml"
    file.write_text(found[1])
    assert load_server_configuration(file).state_repo == tmp_path / "plant-state.git"


@pytest.mark.parametrize("default", ["commitSeconds", "perDevice", "burst", "waitSeconds", "requestsOfAll", "port"])
def test_defaults_are_told(default: str) -> None:
    for cls in (configuration.ReportSettings(), configuration.LimitSettings(), configuration.ListenSettings()):
        for key, *_ in iterate_fields(type(cls)):
            if key == default:
                value = getattr(cls, re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", key))
                assert f"`{value:g}`" in next(row for row in SECTION.splitlines() if row.startswith(f"| `{key}`"))


def documented() -> dict[tuple[str, str], set[int]]:
    """Return the statuses of each method and path of the tables; `…` stands for `/api/v1`."""
    rows = re.findall(r"^\| ((?:`[A-Z]+`, )*)`([A-Z]+) ([/…][^`]*)` \| ([^|]*) \|", PAGE, re.MULTILINE)
    return {
        (method, path.replace("…", "/api/v1")): {int(status) for status in re.findall(r"\b[1-5][0-9]{2}\b", answers)}
        for others, last, path, answers in rows
        for method in [*re.findall("[A-Z]+", others), last]
    }


@pytest.mark.parametrize("routes", [current.ROUTES, older.ROUTES], ids=["current", "older"])
def test_every_served_resource_has_its_row(routes: Sequence[Route[Any]]) -> None:
    pages = documented()
    for route in routes:
        for method, operation in route.operations.items():
            said = pages[method, route.template]
            succeeds = {answer.status for answer in operation.answers}
            assert said <= succeeds | {*operation.refusals, 503}, route.template
            assert {status for status in succeeds if status < 400} <= said, route.template


def test_every_row_is_of_a_served_resource() -> None:
    served = {(name, each.template) for each in (*current.ROUTES, *older.ROUTES) for name in each.operations}
    assert documented().keys() == served


def test_the_documented_answers_are_those_of_the_server(reading: ServedFleet) -> None:
    rows = {
        key: answers
        for key, answers in documented().items()
        if "/onboarding" not in key[1] and "/clients/" not in key[1]
    }
    with reading.client("press-01") as client:
        for (method, path), answers in rows.items():
            url = path.format(
                deploymentId="00000000-0000-4000-8000-000000000000",
                digest=f"sha256:{'0' * 64}",
                deviceId="press-02",
                version=2,
            )
            assert client.request(method, url, json={}).status_code in answers, path

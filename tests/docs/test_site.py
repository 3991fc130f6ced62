"""docs/ builds into a site with search: every link leads somewhere, and a browser loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PERSONS = ("operator", "application-author", "device-maker", "security-officer", "contributor")

_LOADS = re.compile(r"""<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="?(https?://[^\s">]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PERSONS)
    loaded = {match for page in pages for match in _LOADS.findall(page.read_text(encoding="utf-8"))}
    assert loaded == set()


def test_the_search_finds_pages_and_errors(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert {"errors/#mg1206", "start/operator/", "project/CHANGELOG/"} <= places


@pytest.mark.parametrize("person", PERSONS)
def test_the_first_page_has_a_way_in_for_each_person(site: Path, person: str) -> None:
    assert f'href="start/{person}/"' in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "start" / person / "index.html").is_file()


def test_diagrams_are_drawn_when_the_site_is_built(site: Path) -> None:
    page = (site / "architecture" / "index.html").read_text(encoding="utf-8")
    assert "flowchart TD" not in page
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg"') >= 2

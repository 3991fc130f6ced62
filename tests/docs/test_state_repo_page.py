"""docs/state-repo.md says of the state repo what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.state_repo import compaction, publication, refs, repacking

PAGE = (Path(__file__).parents[2] / "docs" / "state-repo.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table below a head line."""
    table = PAGE[PAGE.index(head) :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_trailers_are_those_that_a_render_writes(tmp_path: Path) -> None:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    outcome = margo_gitops("render", "--fleet", fleet.root, "--state-repo", tmp_path / "state.git", cwd=tmp_path)
    assert outcome.code == 0, outcome
    state = Git(tmp_path / "state.git")
    listed = {cells[0].strip("`"): cells[1] for cells in rows("| Trailer | On | Meaning |")}
    assert trailers(state, "fleet") == {name for name, on in listed.items() if on == "both"}
    assert trailers(state, "devices/press-01") == set(listed)


def trailers(state: Git, ref: str) -> set[str]:
    """Return the names of a commit's trailers."""
    return set(state.run("log", "-1", "--format=%(trailers:keyonly,separator=%x2C)", ref).split(","))


def test_the_table_of_encoded_names_is_right() -> None:
    table = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("| Device id | Ref |")}
    assert table == {device: device_ref(device) for device in table}


def test_the_rules_are_those_of_the_code() -> None:
    page = {
        cells[0]: cells[1]
        for head in ("| PUBLICATION-1 ", "| REFS-1 ", "| REPACK-1 ", "| COMPACT-1 ")
        for cells in rows(f"| Rule | |\n|---|---|\n{head}")
    }
    code = {
        name: " ".join(text.split()).rstrip(".")
        for module in (publication, refs, repacking, compaction)
        for name, text in re.findall(
            r"^ *((?:PUBLICATION|REFS|REPACK|COMPACT)-\d)  (.+?)(?=^ *[A-Z]+-\d  |\n\n|\Z)",
            module.__doc__ or "",
            re.MULTILINE | re.DOTALL,
        )
    }
    assert {name: text.rstrip(".") for name, text in page.items()} == code

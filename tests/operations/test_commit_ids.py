"""The commit ids of the template's fleet: a device that holds a state must not get the same state as another commit.

A change of these ids is a change that every device fetches, so it needs a reason and a line in the changelog.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.fleet import FleetFolder, write_signing_key
from support.git_cli import GIT_ENVIRONMENT, Git

from margo_gitops.operations import fleet_input
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.render import changed_part
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet

IDS = {
    "unsigned": [
        "0e2251a05b11828c65d1134550d2597b1821263c68068eb0a0d7988395ea9abc",
        "fe495f1ba786abc3a5b1d4865f0fee4193353014b94da940f4c61544ceb0293f",
    ],
    "signed": [
        "c710470bba90ab0f0f03ada291455abb0922f93c3bcf6ac583ad44667aa6be76",
        "1cd4ff0ea497b21919f05e237c24d6cf36988bb40203dfdad7628dda1e57b56b",
    ],
}
"""SHA-256 over all refs, after the first render and after a change of one site."""


@pytest.mark.parametrize("cache", ["kept", "lost"])
@pytest.mark.parametrize("signed", IDS)
def test_the_ids_are_those_of_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: str, cache: str
) -> None:
    for module in (changed_part, fleet_input):
        monkeypatch.setattr(module, "RENDERED_BY", "margo-gitops 0.1.0")
    key = read_signing_key(write_signing_key(tmp_path / "key")) if signed == "signed" else None
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    dates = {f"GIT_{who}_DATE": "1767225600 +0000" for who in ("AUTHOR", "COMMITTER")}
    fleet.git.environment = {**GIT_ENVIRONMENT, **dates}
    found = []
    for number, message in enumerate(("Start", "Greet in another way")):
        if number:
            fleet.change("sites/north.yaml", "Grüezi", "Servus")
        fleet.commit(message)
        folder = tmp_path / (f"cache-{number}" if cache == "lost" else "cache")
        render_fleet(RenderRequest(fleet.root, "HEAD", str(tmp_path / "state.git"), folder, key=key))
        refs = Git(tmp_path / "state.git").run("for-each-ref", "--format=%(refname) %(objectname)")
        found.append(hashlib.sha256(refs.encode()).hexdigest())
    assert found == IDS[signed]

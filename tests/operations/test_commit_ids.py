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
        "13a6e0f4564045fa1992be771affc38be1074c691fc73a964abd47fc3d85c36f",
        "f521ef3269cb4f8b4da463921f836858101821812221c1cf7b9f49ccae1c0b97",
    ],
    "signed": [
        "019dda63675670846c632d41a3ce367c009493d1107806fd4d05c1d64df47513",
        "d814712543ca3ec820f28a69536eef5a23225773f0e6aed39e164a40e7075572",
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

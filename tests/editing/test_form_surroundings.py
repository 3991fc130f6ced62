"""What a form learns of devices before it asks, and shows of them before it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter
from support.git_cli import GIT_ENVIRONMENT

from margo_gitops.editing.deploy import DeployRequest, deploy, deploy_target
from margo_gitops.editing.edit import Base, read_base
from margo_gitops.editing.form.form import Answers, Form, ParameterQuestion
from margo_gitops.editing.form.form_checks import FormCheck
from margo_gitops.editing.form.form_text import prompt_text
from margo_gitops.editing.form.preview import installed_state, preview
from margo_gitops.errors import MargoGitopsError, RenderingRefused
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetFolder:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in GIT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.device("press-01")
    fleet.application(parameters={"setting": parameter(value="x")})
    fleet.deployment("web", parameters={"setting": "y"})
    fleet.commit()
    return fleet


def base_of(fleet: FleetFolder) -> Base:
    return read_base(fleet.root)


def test_nothing_is_installed_before_the_first_render_and_what_was_rendered_after_it(fleet: FleetFolder):
    cache = fleet.root.parent / "cache"
    assert installed_state(base_of(fleet), None, cache).previous("press-01") is None
    render_fleet(RenderRequest(fleet.root, "HEAD", None, cache))
    fleet.deployment("web", parameters={"setting": "z"})
    found = installed_state(base_of(fleet), None, cache)
    held = found.previous("press-01")
    assert held is not None
    assert b'"manifestVersion":1' in held.manifest
    assert (found.note, found.previous("press-99")) == ("", None)
    by_url = installed_state(base_of(fleet), f"file://{fleet.root.parent}/state.git", cache).previous("press-01")
    assert by_url is not None
    assert by_url.manifest == held.manifest


def test_an_unreadable_state_repo_counts_as_what_the_fleet_says_unless_it_was_named(fleet: FleetFolder, tmp_path: Path):
    (tmp_path / "state.git").write_text("no repository")
    found = installed_state(base_of(fleet), None, tmp_path / "cache")
    assert found.note.startswith("the state repo cannot be read")
    held = found.previous("press-01")
    assert held is not None
    assert held.manifest == fleet.render()["press-01"].manifest
    with pytest.raises(MargoGitopsError):
        installed_state(base_of(fleet), str(tmp_path / "state.git"), tmp_path / "cache")
    fleet.deployment("web", profiles=["none"])
    assert installed_state(base_of(fleet), None, tmp_path / "cache").previous("press-01") is None


def test_a_preview_shows_what_the_edit_alone_changes(fleet: FleetFolder):
    fleet.device("press-02")  # not rendered yet, and no part of the edit
    base = base_of(fleet)
    plan = preview(base, deploy(base, DeployRequest("app", parameters={"setting": "z"})), lambda _device: None)
    assert plan is not None
    assert {each.device: each.change for each in plan.devices} == {"press-01": "changed", "press-02": "changed"}
    assert plan.counts.deployments_changed == 2
    with pytest.raises(RenderingRefused):
        preview(base, deploy(base, DeployRequest("app", parameters={"setting": "{{ x }}"})), lambda _device: None)
    fleet.put("devices/press-03.yaml", "broken: [")
    broken = base_of(fleet)
    edit = deploy(broken, DeployRequest("app", parameters={"setting": "z"}))
    assert preview(broken, edit, lambda _device: None) is None


def test_what_a_supplier_writes_cannot_move_the_cursor(fleet: FleetFolder):
    fleet.application(
        parameters={"a\x1b[2J": parameter(value="\x1b[31m")},
        metadata={"name": "App\x1b]0;x\x07", "version": "1.0.0", "catalog": {"organization": [{"name": "E"}]}},
    )
    fleet.deployment("web")
    intent = fleet.read()
    form = Form(FormCheck(intent, deploy_target(intent, "app", None, None), lambda _device: None), Answers()).begin()
    assert isinstance(form.question, ParameterQuestion)
    assert prompt_text(form) == "a\\x1b[2J"  # other lines are printed, which spells out the rest

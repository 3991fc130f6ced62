"""The hooks of docs/hand-over.md, as they are on the page."""

import re
import subprocess
from pathlib import Path

import pytest
from support.git_cli import GIT_ENVIRONMENT, Git

PAGE = Path(__file__).parents[2] / "docs" / "hand-over.md"


@pytest.fixture
def hook(tmp_path):
    def written(name, **replaced):
        block = re.search(rf"<!-- hand-over: {name} -->\n```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
        text = block[1]
        for old, new in replaced.items():
            assert old.replace("_", "/") in text
            text = text.replace(old.replace("_", "/"), str(new))
        path = tmp_path / f"{name}-hook"
        path.write_text(text)
        path.chmod(0o755)
        return lambda event, folder: subprocess.run(
            [path, event, folder], check=True, cwd=tmp_path, env=GIT_ENVIRONMENT
        )

    return written


def component(tmp_path):
    folder = tmp_path / "out" / "an-id" / "hmi"
    folder.mkdir(parents=True)
    (folder / "handover.yaml").write_text("a: 1\n")
    return folder


def test_the_hook_for_git(tmp_path, hook):
    hub, plant = Git(tmp_path / "hub"), Git(tmp_path / "plant")
    hub.init(bare=True)
    plant.init()
    plant.run("remote", "add", "origin", str(hub.path))
    plant.run("config", "push.autoSetupRemote", "true")
    call = hook("git", **{"_var_lib_margo-gitops_plant": plant.path})
    folder = component(tmp_path)
    for event, files in (("installed", "an-id.hmi.yaml"), ("installed", "an-id.hmi.yaml"), ("removed", "")):
        call(event, folder)
        assert hub.run("ls-tree", "--name-only", "main").strip() == files
    assert len(hub.run("log", "--format=%s", "main").splitlines()) == 2


def test_the_hook_for_k3s(tmp_path, hook):
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    tool = tmp_path / "k3s"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    tool.chmod(0o755)
    call = hook("k3s", **{"_var_lib_rancher_k3s_server_manifests": manifests, "k3s kubectl": f"{tool} kubectl"})
    folder = component(tmp_path)
    call("installed", folder)
    file = manifests / "margo-an-id.hmi.yaml"
    assert file.read_text() == "a: 1\n"
    for _ in range(2):
        call("removed", folder)
    assert not file.exists()
    assert (tmp_path / "calls").read_text() == f"kubectl delete --ignore-not-found --filename {file}\n"


def test_the_hook_for_quadlet(tmp_path, hook):
    systemd = tmp_path / "systemd"
    systemd.mkdir()
    tool = tmp_path / "systemctl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    tool.chmod(0o755)
    call = hook("quadlet", _etc_containers_systemd=systemd, systemctl=tool)
    folder = component(tmp_path)
    (folder / "quadlet").mkdir()
    for name in ("a.db.container", "a.web.container", "a.network"):
        (folder / "quadlet" / name).touch()
    call("installed", folder)
    (folder / "quadlet" / "a.web.container").unlink()
    for event in ("installed", "stopped", "started", "removed", "removed"):
        call(event, folder)
    both, one = "a.db.service a.web.service", "a.db.service"
    expected = ["daemon-reload", f"start {both}", f"stop {both}", "daemon-reload", f"start {one}", f"stop {one}"]
    expected += [f"start {one}", f"stop {one}", "daemon-reload", "daemon-reload"]
    assert (tmp_path / "calls").read_text().splitlines() == expected
    assert not list(systemd.iterdir())

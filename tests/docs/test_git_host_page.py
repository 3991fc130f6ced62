"""The hook of docs/git-host.md confines each device to its own branch (G-P-4)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.git_cli import Git, GitFailedError

HOOK = Path(__file__).parents[2] / "docs/deploy/device-reports.pre-receive"
OWN = "refs/heads/device-reports/press-07"


@pytest.fixture
def host(tmp_path: Path) -> Git:
    made = Git(tmp_path / "reports.git").init(bare=True)
    made.run("config", "margo-gitops.writers", "renderer admin")
    hook = made.path / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_bytes(HOOK.read_bytes())
    hook.chmod(0o755)
    return made


@pytest.fixture
def clone(tmp_path: Path) -> Git:
    made = Git(tmp_path / "device").init()
    made.commit({"capabilities.json": "{}"})
    return made


def push(clone: Git, host: Git, user: str, *refspecs: str, variable: str = "REMOTE_USER") -> str:
    try:
        clone.run("push", "--quiet", "--force", host.path, *refspecs, environment={variable: user})
    except GitFailedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variable", ["REMOTE_USER", "GL_USER", "GITEA_PUSHER_NAME"])
def test_a_device_pushes_to_its_own_branch(clone: Git, host: Git, variable: str) -> None:
    assert push(clone, host, "press-07", f"HEAD:{OWN}", variable=variable) == ""
    clone.run("commit", "--quiet", "--amend", "-m", "again")
    assert push(clone, host, "press-07", f"HEAD:{OWN}", variable=variable) == ""


@pytest.mark.parametrize(
    "refspecs",
    [
        ["HEAD:refs/heads/device-reports/press-070"],
        ["HEAD:refs/heads/device-reports/press-0"],
        ["HEAD:refs/heads/devices/press-07"],
        ["HEAD:refs/heads/fleet"],
        ["HEAD:refs/tags/device-reports/press-07"],
        [f"HEAD:{OWN}", "HEAD:refs/heads/fleet"],
        [f":{OWN}"],
    ],
)
def test_and_nowhere_else(clone: Git, host: Git, refspecs: list[str]) -> None:
    push(clone, host, "press-07", f"HEAD:{OWN}")
    before = host.run("for-each-ref")
    clone.run("commit", "--quiet", "--amend", "-m", "again")
    assert "press-07 may" in push(clone, host, "press-07", *refspecs)
    assert host.run("for-each-ref") == before


@pytest.mark.parametrize("user", ["", "press-07 renderer", "*", "../fleet", "a\nb"])
def test_who_is_not_known_pushes_nothing(clone: Git, host: Git, user: str) -> None:
    assert "does not say who pushes" in push(clone, host, user, f"HEAD:{OWN}")
    assert host.run("for-each-ref") == ""


def test_the_renderer_pushes_everything(clone: Git, host: Git) -> None:
    assert push(clone, host, "renderer", "HEAD:refs/heads/fleet") == ""
    host.run("config", "--unset", "margo-gitops.writers")
    assert "renderer may push" in push(clone, host, "renderer", "HEAD:refs/heads/other")

"""`agent install`: rules INSTALL-1 to INSTALL-4, judged by systemd; and the configuration that explains itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from device_world import World
from support.command_line import margo_gitops

from margo_gitops.agent.install import EXAMPLE, UNIT, explained, install
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.documents.records import read
from margo_gitops.documents.yaml_text import read_yaml

SYSTEMD = Path("etc/systemd/system")
PROGRAM = Path("/bin/true")


def content(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("timer", [False, True])
def test_doing_it_again_changes_nothing_and_what_a_person_changed_stays(tmp_path: Path, timer: bool) -> None:
    assert set(install(tmp_path, PROGRAM, timer=timer).values()) == {"written"}
    before = content(tmp_path)
    assert set(install(tmp_path, PROGRAM, timer=timer).values()) == {"unchanged"}
    assert content(tmp_path) == before
    unit = next(path for path in before if path.suffix == ".service")
    (tmp_path / unit).write_bytes(before[unit].replace(b"strict", b"full"))
    (tmp_path / EXAMPLE).write_text("mine\n")
    placed = install(tmp_path, Path("/opt/newer"), timer=timer)
    assert {path for path, what in placed.items() if what.startswith("kept")} == {unit, EXAMPLE}
    assert b"ProtectSystem=full" in (tmp_path / unit).read_bytes()


def test_a_newer_version_replaces_what_no_one_changed(tmp_path: Path) -> None:
    install(tmp_path, PROGRAM, timer=False)
    placed = install(tmp_path, Path("/opt/newer"), timer=False)
    assert placed[SYSTEMD / f"{UNIT}.service"] == "written"
    assert b"ExecStart=/opt/newer agent run" in (tmp_path / SYSTEMD / f"{UNIT}.service").read_bytes()


def test_the_engines_group_is_used_where_the_image_has_it(tmp_path: Path) -> None:
    unit = tmp_path / SYSTEMD / f"{UNIT}.service"
    install(tmp_path, PROGRAM, timer=False)
    assert b"SupplementaryGroups" not in unit.read_bytes()
    (tmp_path / "etc/group").write_text("root:x:0:\ndocker:x:998:\n")
    install(tmp_path, PROGRAM, timer=False)
    assert b"\nSupplementaryGroups=docker\n" in unit.read_bytes()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units_and_finds_little_exposed(tmp_path: Path) -> None:
    for timer in (False, True):
        install(tmp_path, PROGRAM, timer=timer)
    units = sorted(str(path) for path in (tmp_path / SYSTEMD).iterdir())
    assert len(units) == 3
    verified = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")
    for unit in units[1:]:
        if unit.endswith(".service"):
            judge = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit]
            assert subprocess.run(judge, capture_output=True, timeout=60).returncode == 0, unit


def test_the_configuration_that_is_explained_is_one(tmp_path: Path) -> None:
    lines = list(explained())
    assert all(line.startswith("#") and len(line) < 120 for line in lines)
    keys = {line[1:].split(":")[0].strip() for line in lines if re.match(r"#\s*[a-zA-Z]+:", line)}
    assert {"device", "stateFolder", "tokenFile", "floorCopy", "listen", "longestTimeout", "kind"} <= keys
    chosen = {"apiVersion", "kind", "device", "poll", "interval", "longestTimeout"}
    kept = [line[1:] for line in lines if re.match(r"#\s*(\w+):", line) and line[1:].split(":")[0].strip() in chosen]
    text = "\n".join(kept) + "\nstateFolder: state\nsource: {git: {url: 'https://h/s.git'}}\ntrust: {unsigned: true}\n"
    assert (
        read(AgentConfiguration, read_yaml(f"{text}appliers: {{files: {{}}}}\n".encode(), "a")).longest_timeout == 900
    )


def test_the_commands_say_what_they_did_and_what_comes_next(tmp_path: Path) -> None:
    done = margo_gitops("agent", "install", "--root", tmp_path / "image", "--program", "/usr/bin/x", cwd=tmp_path)
    assert done.code == 0, done
    assert f"{SYSTEMD}/{UNIT}.service: written" in done.stdout
    assert "--program" not in done.stderr
    again = margo_gitops("agent", "install", "--root", tmp_path / "image", cwd=tmp_path)
    assert "if that is not its place" in again.stderr
    assert f"systemctl enable --now {UNIT}" in done.stderr.replace("daemon-reload && systemctl", "systemctl")
    explained_text = margo_gitops("agent", "config", "explain", cwd=tmp_path).stdout
    assert explained_text.encode() == (tmp_path / "image" / EXAMPLE).read_bytes().partition(b"\n")[2]
    (tmp_path / "file").write_text("")
    assert margo_gitops("agent", "install", "--root", tmp_path / "file/below", cwd=tmp_path).code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the user root")
@pytest.mark.parametrize("command", ["once", "enroll", "freshness import", "trust import"])
def test_root_writes_nothing_that_the_agents_user_cannot_read(tmp_path: Path, command: str) -> None:
    world = World(tmp_path / "world")
    world.configure(freshness={})
    file = tmp_path / "file"
    file.write_text("secret")
    world.state.mkdir()
    folder = world.folder if command == "enroll" else world.state
    os.chown(folder, 1, 1)
    before = content(folder)
    given = {"once": (), "enroll": ("http://127.0.0.1:1", "--trust-document", str(file))}.get(command, (str(file),))
    refused = world.agent(*command.split(), *given)
    assert (refused.returncode, content(folder)) == (2, before), refused
    assert "runuser -u daemon --" in refused.stderr


def test_a_configuration_is_checked_with_the_files_that_it_names(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.agent("config", "check").returncode == 0
    world.configure(capabilities=["nowhere.yaml"])
    assert world.agent("config", "check").returncode == 2
    for name in ("locks", "hooks"):
        world.configure(**{name: {"folder": "nowhere"}})
        refused = world.agent("config", "check")
        assert (refused.returncode, f"`{name}.folder`" in refused.stderr) == (2, True)
        world.configure(**{name: {"folder": str(tmp_path)}})
        assert world.agent("config", "check").returncode == 0
    world.configure(trust={"allowedSigners": "nowhere"})
    assert world.agent("config", "check").returncode == 2
    world.configure(pol={"interval": "1s"})
    assert "MG1701" in world.agent("config", "check").stderr

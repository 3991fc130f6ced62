"""What `ssh` can do to a device: a program in its place that fails in ways no test can bring a real server to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, DeviceRepository
from git_http_server import wait_for

from margo_gitops.errors import SourceMisbehaved, SourceMisconfigured, SourceRefused, SourceUnreachable
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot

URL = "ssh://git@git.example.com:2222/srv/it's%20state.git"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the program that takes the place of ssh."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin/ssh"


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def failure_of(script: str, program: Path, kind: type[Exception], **settings: float) -> Exception:
    write(program, script)
    transport = GitTransport(GitSource(URL, device=DEVICE, **settings))
    with pytest.raises(kind) as caught:
        transport.pull(None)
    return caught.value


def test_version_2_is_asked_for_and_nothing_but_upload_pack(program: Path, tmp_path: Path) -> None:
    failure_of(f'for argument; do echo "$argument"; done > {tmp_path}/arguments; exit 1', program, SourceRefused)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "BatchMode=yes" in arguments
    assert "SetEnv=GIT_PROTOCOL=version=2" in arguments
    assert arguments[-7:-1] == ["-p", "2222", "-l", "git", "--", "git.example.com"]
    assert arguments[-1] == r"git-upload-pack '/srv/it'\''s state.git'"


def test_the_environment_of_the_agent_stays_with_the_agent(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_TOKEN", "s3cret")
    monkeypatch.setenv("GIT_SSH_COMMAND", "x")
    failure_of(f"env > {tmp_path}/environment; exit 1", program, SourceRefused)
    assert "s3cret" not in (tmp_path / "environment").read_text()


def test_a_silent_server_is_left_and_ssh_is_ended(program: Path, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec sleep 600"
    error = failure_of(script, program, SourceUnreachable, read_seconds=0.5)
    assert "silent" in str(error)
    process = int((tmp_path / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def test_what_ssh_started_is_ended_with_it(program: Path, tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    failure_of(script, program, SourceUnreachable, read_seconds=0.5)
    process = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(process))


def is_running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_server_that_talks_and_never_answers_is_left_when_the_time_is_over(program: Path) -> None:
    script = "while :; do echo still busy >&2; sleep 0.05; done"
    error = failure_of(script, program, SourceUnreachable, pull_seconds=1)
    assert "did not finish" in str(error)


def test_standard_error_that_stays_open_holds_nothing_up(program: Path, tmp_path: Path) -> None:
    # As ssh does when it leaves a master connection in the background.
    master = f"sleep 600 >/dev/null </dev/null & echo $! > {tmp_path}/pid"
    script = f"{master}; echo 'Permission denied (publickey).' >&2; exit 255"
    error = failure_of(script, program, SourceRefused)
    assert "Permission denied" in str(error)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("echo 'ssh: Could not resolve hostname x' >&2; exit 255", SourceUnreachable),
        ("echo 'Host key verification failed.' >&2; exit 255", SourceUnreachable),
        ("echo 'git: Permission denied (publickey).' >&2; exit 255", SourceRefused),
        ("echo \"fatal: '/x' does not appear to be a git repository\" >&2; exit 128", SourceRefused),
        ("exit 0", SourceRefused),
        ("kill -9 $$", SourceUnreachable),
        ("echo Welcome to this server", SourceMisbehaved),
        (f"printf '003d{'1' * 40} HEAD\\0side-band\\n0000'; sleep 600", SourceRefused),
        ("printf '000eversion 2\\n000cls-refs\\n0012fetch=shallow\\n0000'; sleep 0.2; exit 1", SourceRefused),
        ("head -c 100000000 /dev/zero | tr '\\0' z", SourceMisbehaved),
        ("head -c 100000000 /dev/zero | tr '\\0' a >&2; exit 255", SourceUnreachable),
    ],
)
def test_each_way_to_fail_is_told_apart(program: Path, script: str, kind: type[Exception]) -> None:
    error = failure_of(script, program, kind)
    assert len(str(error)) < 1000


def test_no_ssh_on_the_device_is_a_misconfiguration(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    with pytest.raises(SourceMisconfigured, match="ssh cannot be started"):
        GitTransport(GitSource(URL, device=DEVICE)).pull(None)


def test_git_upload_pack_behind_it_serves_a_state(program: Path, tmp_path: Path) -> None:
    repository = DeviceRepository.create(tmp_path / "it's state.git")
    repository.commit(MANIFEST, {FIRST: b"x"})
    write(program, f'for last; do :; done; cd "{tmp_path}"; GIT_PROTOCOL=version=2 exec sh -c "$last"')
    transport = GitTransport(GitSource(f"ssh://localhost{tmp_path}/it's%20state.git", device=DEVICE))
    held = transport.pull(None).snapshot
    assert isinstance(held, Snapshot)
    assert held.deployments == {FIRST: b"x"}
    assert transport.pull(held).snapshot is None
    assert transport.cost.requests == 2
    assert 0 < transport.cost.bytes_down < 2000

"""Pulling by git from gitolite: the state repo as one of its repositories, and each device a user with a key."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, SECOND, DeviceRepository
from support.real import unavailable
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.packages import program, require

from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.errors import PushDeclined, SourceRefused
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.push import NOTHING, GitPush, file_objects
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.metering import Deadline

pytestmark = pytest.mark.real

_PROGRAMS = {"gitolite": "gitolite3", "sshd": "openssh-server", "ssh": "openssh-client", "git": "git"}
_RULES = f"""\
repo gitolite-admin
    RW+ = admin
repo state
    RW+ = admin
    R = {DEVICE}
repo reports
    RW+ refs/heads/device-reports/{DEVICE}$ = {DEVICE}
"""


@dataclass(frozen=True)
class Gitolite:
    """A running gitolite behind an sshd of its own.

    Attributes:
        home: of its user; keys are beside its repositories.
        port: on the loopback.
    """

    home: Path
    port: int

    def source(self, key: str, repository: str = "state") -> GitSource:
        return GitSource(
            f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self.port}/{repository}",
            device=DEVICE,
            ssh_identity=self.home / key,
            ssh_known_hosts=self.home / "known_hosts",
            pull_seconds=60,
        )


def run(home: Path, *command: str) -> None:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LC_ALL": "C", "USER": "git"}
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="module")
def gitolite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gitolite]:
    try:
        require(_PROGRAMS)
    except UnavailableError as error:
        unavailable(str(error))
    home = tmp_path_factory.mktemp("gitolite")
    for name in ("admin", DEVICE, "stranger", "host_key"):
        run(home, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(home / name))
    run(home, "gitolite", "setup", "-pk", "admin.pub")
    (home / ".gitolite/conf/gitolite.conf").write_text(_RULES)
    for name in (DEVICE, "stranger"):
        (home / f".gitolite/keydir/{name}.pub").write_bytes((home / f"{name}.pub").read_bytes())
    run(home, "gitolite", "compile")
    run(home, "gitolite", "trigger", "POST_COMPILE")
    (port,) = free_ports(1)
    kind, key = (home / "host_key.pub").read_text().split()[:2]
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (home / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/.ssh/authorized_keys\nPermitRootLogin forced-commands-only\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv GIT_PROTOCOL\nSetEnv HOME={home}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (home / "sshd.log").open("wb") as log:
        sshd = subprocess.Popen([str(program("sshd")), "-D", "-e", "-f", str(home / "sshd_config")], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not answers(port):
            assert sshd.poll() is None, (home / "sshd.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Gitolite(home, port)
    finally:
        sshd.terminate()
        sshd.wait(20)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def test_a_device_pulls_what_gitolite_lets_it_read(gitolite: Gitolite) -> None:
    repository = DeviceRepository(gitolite.home / "repositories/state.git")
    first = repository.commit(MANIFEST, {FIRST: b"x"})
    transport = GitTransport(gitolite.source(DEVICE))
    held = transport.pull(None).snapshot
    assert isinstance(held, Snapshot)
    assert (held.deployments, held.revision) == ({FIRST: b"x"}, first)
    assert transport.pull(held).snapshot is None
    second = repository.commit(b"{}", {FIRST: b"x", SECOND: b"y"})
    found = transport.pull(held).snapshot
    assert isinstance(found, Snapshot)
    assert (found.deployments, found.revision) == ({FIRST: b"x", SECOND: b"y"}, second)
    transport.close()


@pytest.mark.parametrize(
    ("key", "repository"),
    [("stranger", "state"), (DEVICE, "gitolite-admin"), (DEVICE, "state;id")],
)
def test_what_gitolite_denies_is_refused_in_its_own_words(gitolite: Gitolite, key: str, repository: str) -> None:
    transport = GitTransport(gitolite.source(key, repository))
    with pytest.raises(SourceRefused) as caught:
        transport.pull(None)
    transport.close()
    assert "FATAL" in caught.value.what


def test_gitolite_lets_a_device_push_its_reports_and_nothing_else(gitolite: Gitolite) -> None:
    own, foreign = device_reports_ref(DEVICE), device_reports_ref("press-08")
    objects = file_objects({("capabilities.json",): b"{}"})
    who = Ident(DEVICE, "", 1)
    commit = build_commit(list(objects)[-1].decode(), (), who, who, "Reports\n")
    objects[ObjectID(object_id(COMMIT, commit).encode())] = COMMIT, commit
    for ref, repository, key in ((foreign, "reports", DEVICE), (own, "state", DEVICE), (own, "reports", "stranger")):
        source = replace(gitolite.source(key, repository), device=None, ref=ref)
        with pytest.raises((PushDeclined, SourceRefused)):
            GitPush(source).push(objects, None, Deadline(60, 60))
    source = replace(gitolite.source(DEVICE, "reports"), device=None, ref=own)
    assert GitPush(source).push(objects, None, Deadline(60, 60)) == NOTHING
    assert GitPush(source).push(objects, None, Deadline(60, 60)) == list(objects)[-1]

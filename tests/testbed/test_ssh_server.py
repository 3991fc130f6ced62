import subprocess

import pytest
from support.git_cli import GitFailedError

pytestmark = pytest.mark.real


def test_git_clones_and_pushes_over_ssh(git, ssh_server):
    over_ssh = {"GIT_SSH_COMMAND": ssh_server.command}
    commit = git("source").init().commit({"a": "1"})
    served = git("served.git").init(bare=True)

    git("source").run("push", "--quiet", ssh_server.url(served.path), "main", environment=over_ssh)
    git(".").run("clone", "--quiet", ssh_server.url(served.path), "copy", environment=over_ssh)

    assert git("copy").run("rev-parse", "HEAD") == commit


def test_the_protocol_version_reaches_git(git, ssh_server):
    git("source").init().commit({"a": "1"})
    over_ssh = {"GIT_SSH_COMMAND": ssh_server.command, "GIT_TRACE_PACKET": str(git("trace").path)}

    git(".").run("-c", "protocol.version=2", "ls-remote", ssh_server.url(git("source").path), environment=over_ssh)

    assert "version 2" in git("trace").path.read_text()


def test_another_key_is_not_let_in(git, ssh_server):
    git("source").init().commit({"a": "1"})
    command = ssh_server.command.replace(str(ssh_server.identity_file), str(ssh_server.other_identity_file))

    with pytest.raises(GitFailedError, match="Permission denied"):
        git(".").run("ls-remote", ssh_server.url(git("source").path), environment={"GIT_SSH_COMMAND": command})


def test_another_host_key_is_refused_by_the_client(git, ssh_server):
    git("source").init().commit({"a": "1"})
    command = ssh_server.command.replace(str(ssh_server.known_hosts_file), str(ssh_server.other_known_hosts_file))

    with pytest.raises(GitFailedError, match="Host key verification failed"):
        git(".").run("ls-remote", ssh_server.url(git("source").path), environment={"GIT_SSH_COMMAND": command})


def test_nothing_but_git_runs_over_ssh(ssh_server):
    host = ["-p", str(ssh_server.port), f"{ssh_server.user}@127.0.0.1"]

    done = subprocess.run([*ssh_server.command.split(), *host, "id"], capture_output=True, text=True, timeout=30)

    assert done.returncode != 0
    assert "uid=" not in done.stdout
    assert "unrecognized command" in done.stderr

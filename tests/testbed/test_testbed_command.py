"""The whole of scripts/testbed, as a person runs it, on a state folder of its own."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.real import unavailable
from testbed.bridge import bridge_name
from testbed.places import CHECKOUT, state_folder
from testbed.postgresql_server import _home

pytestmark = pytest.mark.real

INTERFACES = Path("/sys/class/net")


@pytest.fixture
def testbed():
    """Runs scripts/testbed on a new state folder; the folder is short, for its sockets."""
    with tempfile.TemporaryDirectory(prefix="testbed-") as folder:
        # What is downloaded once serves all testbeds of the checkout.
        packages = state_folder() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        Path(folder, "packages").symlink_to(packages)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        environment["MARGO_GITOPS_TESTBED"] = folder

        def run(*arguments):
            return subprocess.run(
                [CHECKOUT / "scripts/testbed", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=280,
            )

        run.state = Path(folder)
        yield run
        run("down")


def up(testbed, part):
    done = testbed("up", part)
    if done.returncode:
        unavailable(done.stderr)
    exports = testbed("env", part)
    assert exports.returncode == 0
    return dict(re.findall(r"export (\w+)='?([^'\n]*?)'?$", exports.stdout, flags=re.MULTILINE))


def processes_of(folder):
    """Command lines of running processes that name the folder, or whatever else is asked for."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
            continue
        if os.fsencode(folder) in command and entry.name != str(os.getpid()):
            found.append(command)
    return found


@pytest.mark.parametrize("part", ["git", "ssh"])
def test_down_leaves_nothing_of_a_server(testbed, part):
    up(testbed, part)
    assert processes_of(testbed.state / part)

    done = testbed("down", part)

    assert (done.returncode, done.stdout) == (0, f"{part}: down\n")
    assert not processes_of(testbed.state)
    assert not (testbed.state / part).exists()


def test_a_database_starts_below_a_folder_that_only_root_may_enter_and_leaves_nothing(testbed):
    testbed.state.mkdir(mode=0o700, exist_ok=True)
    up(testbed, "postgresql")
    home = _home(testbed.state / "postgresql")
    assert processes_of(home)

    assert testbed("down", "postgresql").returncode == 0

    assert not processes_of(home)
    assert not home.exists()
    assert not (testbed.state / "postgresql").exists()


def test_up_twice_is_up_once(testbed):
    first = up(testbed, "ssh")

    assert up(testbed, "ssh") == first
    assert testbed("status", "ssh").stdout == "ssh: up\n"


def test_status_and_env_of_a_part_that_is_down_say_so(testbed):
    status, exports = testbed("status", "git"), testbed("env", "git")

    assert (status.returncode, status.stdout) == (1, "git: down\n")
    assert exports.returncode == 1
    assert "scripts/testbed up git" in exports.stderr


def test_an_unknown_part_is_named_with_those_there_are(testbed):
    done = testbed("up", "bus")

    assert done.returncode == 2
    assert (
        "no such part: bus; there are docker, git, ssh, gitolite, jgit, postgresql, registry, kubernetes, helm, flux,"
        " node, registry-referrers" in done.stderr
    )


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_down_leaves_nothing_of_an_engine_with_running_containers(testbed, killed):
    exports = up(testbed, "docker")
    if str(testbed.state) not in exports["DOCKER_HOST"]:
        pytest.skip("this machine has an engine of its own, which the testbed leaves alone")
    folder = testbed.state / "docker"
    compose = testbed.state / "compose.yaml"
    compose.write_text(
        "services: {web: {image: 'margo-gitops-test/busybox:1', command: [sleep, '1000'], volumes: ['kept:/kept']}}\n"
        "volumes: {kept: {}}\n"
    )
    environment = {**exports, "PATH": f"{exports['PATH'].partition(':')[0]}:{os.environ['PATH']}"}
    command = ["docker", "compose", "-f", compose, "-p", "left", "up", "--detach"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    listed = ["docker", "ps", "--quiet", "--no-trunc"]
    [container] = subprocess.run(listed, env=environment, check=True, capture_output=True, text=True).stdout.split()
    [network] = subprocess.run(
        ["docker", "network", "ls", "--quiet", "--filter", "name=left_default"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert (INTERFACES / f"br-{network}").exists()
    if killed:
        os.kill(int((folder / "dockerd.pid").read_text().split()[0]), 9)

    done = testbed("down", "docker")

    assert (done.returncode, done.stdout) == (0, "docker: down\n"), done.stderr
    assert not folder.exists()
    assert not processes_of(testbed.state)
    assert not processes_of(container)
    assert str(testbed.state) not in Path("/proc/self/mountinfo").read_text()
    assert not (INTERFACES / bridge_name(folder)).exists()
    assert not (INTERFACES / f"br-{network}").exists()
    assert not [path for path in Path("/sys/fs/cgroup").glob("**/docker/*") if path.name == container]

"""A Docker Engine with Compose v2: the one that answers already, or one of our own below a state folder.

1. An engine of others is used as it is: never started, never stopped, never configured.
2. Our own engine touches nothing outside its folder but its bridge: it makes no iptables rule and changes no sysctl.
   Published ports work on the loopback and the host's addresses; containers reach the host, and no further.
3. Stopping leaves no container, process, mount or interface, also when the engine itself was killed before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.bridge import POOLS, bridge_name, make_bridge, remove_bridges
from testbed.errors import UnavailableError
from testbed.packages import offers, program, require, unpack
from testbed.processes import SEARCH_PATH, run
from testbed.test_image import TEST_IMAGE, TEST_IMAGE_NEXT, load_images

_CGROUPS = Path("/sys/fs/cgroup")
_STORAGE_DRIVERS = ("overlay2", "vfs")
_PATIENCE_SECONDS = 300.0
"""How long an engine that was killed may take to start again: it looks at all that it ran, on a busy machine too."""


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """What a Docker client needs to reach an engine.

    Attributes:
        environment: PATH, DOCKER_HOST, and DOCKER_CONFIG where the client's own configuration lacks Compose v2.
        owned: whether the testbed started this engine.
    """

    environment: Mapping[str, str]
    owned: bool


def find_engine(state: Path) -> DockerEngine | None:
    """Return our own engine if it runs, else an engine of others that answers, else None."""
    folder = state / "docker"
    if processes.find("dockerd", folder):
        return DockerEngine(_own_environment(folder), owned=True)

    client = program("docker")
    if client is None:
        return None
    environment = {name: os.environ[name] for name in ("DOCKER_CONFIG", "DOCKER_HOST", "HOME") if name in os.environ}
    environment["PATH"] = f"{client.parent}:{os.environ.get('PATH', '')}:{SEARCH_PATH}"
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], environment=environment)
        if "DOCKER_HOST" not in environment:
            inspect = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
            environment["DOCKER_HOST"] = run(inspect, environment=environment).strip()
    except UnavailableError:
        return None
    if (folder / "config").exists():
        environment["DOCKER_CONFIG"] = str(folder / "config")
    return DockerEngine(environment, owned=False)


def start_engine(state: Path, settings: Mapping[str, object] | None = None) -> DockerEngine:
    """Return an engine that answers, has Compose v2 and the test images; start our own if there is none.

    Args:
        settings: of the daemon, in addition; with them the engine is always one of our own.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    found = find_engine(state) if settings is None else None
    if found is None:
        _start_own(state / "docker", settings or {})
    try:
        engine = _with_compose(found or DockerEngine(_own_environment(state / "docker"), owned=True), state)
        load_images(engine.environment, state / "packages")
    except UnavailableError:
        if found is None:
            stop_engine(state)
        raise
    return engine


def crash_engine(state: Path) -> None:
    """Kill our own engine without asking it, and start it again (UnavailableError: it does not start)."""
    folder = state / "docker"
    process = processes.find("dockerd", folder)
    processes.kill([process] if process else [])
    for file in (folder / "docker.pid", folder / "exec/containerd/containerd.pid"):
        file.unlink(missing_ok=True)
    if not _run_daemon(folder, _PATIENCE_SECONDS):
        raise UnavailableError(f"dockerd does not start again:\n    {processes.tail(folder / 'dockerd.log')}", "")


def stop_engine(state: Path) -> None:
    """Stop our own engine, if there is one, with all it ran, and remove its state."""
    folder = state / "docker"
    engine = find_engine(state)
    if engine and not engine.owned:
        with suppress(UnavailableError):
            run(["docker", "image", "rm", TEST_IMAGE, TEST_IMAGE_NEXT], environment=engine.environment)
    if not folder.exists():
        return
    if processes.find("dockerd", folder):
        with suppress(UnavailableError):
            _remove_containers(_own_environment(folder))
        processes.stop("dockerd", folder)
    _sweep(folder)


def _start_own(folder: Path, settings: Mapping[str, object]) -> None:
    if os.geteuid() != 0:
        raise UnavailableError("no Docker engine answers, and only root can start one", "start Docker, or run as root")
    require({"dockerd": "docker.io", "ip": "iproute2", "iptables": "iptables"})
    require({"docker": "docker-cli"})

    problem = ""
    for driver in _STORAGE_DRIVERS:
        # What a killed engine left would keep this one from starting.
        _sweep(folder)
        try:
            if _launch(folder, driver, settings):
                return
            problem = processes.tail(folder / "dockerd.log")
            processes.stop("dockerd", folder)
        except UnavailableError:
            _sweep(folder)
            raise
    _sweep(folder)
    raise UnavailableError(f"dockerd does not start:\n    {problem}", "run it by hand to see why")


def _launch(folder: Path, driver: str, settings: Mapping[str, object]) -> bool:
    for name in ("config/cli-plugins", "bin"):
        (folder / name).mkdir(parents=True)
    dockerd = program("dockerd")
    # The client of the same package fits the engine; a newer one elsewhere in the PATH may refuse to talk to it.
    beside = [dockerd.parent, dockerd.parent.with_name("bin")] if dockerd else []
    client = next((path / "docker" for path in beside if (path / "docker").exists()), program("docker"))
    if client:
        (folder / "bin/docker").symlink_to(client)

    make_bridge(bridge_name(folder))
    configuration = folder / "daemon.json"
    configuration.write_text(json.dumps({**_configuration(folder, driver), **settings}, indent=2), encoding="utf-8")
    return _run_daemon(folder)


def _run_daemon(folder: Path, seconds: float = 60) -> bool:
    processes.start(
        "dockerd",
        [program("dockerd") or "dockerd", "--config-file", folder / "daemon.json"],
        folder,
        {"PATH": SEARCH_PATH, "HOME": str(folder), "TMPDIR": str(folder)},
    )
    environment = _own_environment(folder)
    return processes.wait_until(
        lambda: _answers(environment) or not processes.find("dockerd", folder), seconds
    ) and bool(processes.find("dockerd", folder))


def _configuration(folder: Path, driver: str) -> dict[str, object]:
    name = bridge_name(folder)
    return {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "docker.pid"),
        "hosts": [f"unix://{folder / 'docker.sock'}"],
        "storage-driver": driver,
        "bridge": name,
        "default-address-pools": [{"base": pool, "size": 24} for pool in POOLS],
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        # A containerd that runs already would be shared: our own names keep apart what is in it.
        "containerd-namespace": name,
        "containerd-plugins-namespace": f"{name}-plugins",
    }


def _answers(environment: Mapping[str, str]) -> bool:
    try:
        run(["docker", "version"], environment=environment)
    except UnavailableError:
        return False
    return True


def _own_environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{folder / 'bin'}:{SEARCH_PATH}",
        "DOCKER_HOST": f"unix://{folder / 'docker.sock'}",
        "DOCKER_CONFIG": str(folder / "config"),
    }


def _with_compose(engine: DockerEngine, state: Path) -> DockerEngine:
    with suppress(UnavailableError):
        if (
            int(
                run(["docker", "compose", "version", "--short"], environment=engine.environment)
                .lstrip("v")
                .split(".")[0]
            )
            >= 2
        ):
            return engine

    cache = state / "packages"
    if offers("docker-compose-v2"):
        plugin = unpack("docker-compose-v2", "docker-compose", cache)
    else:
        plugin = unpack("docker-compose", "docker-compose", cache, newer=(offers("docker-compose") or 0) < 2)
    link = state / "docker/config/cli-plugins/docker-compose"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(plugin)

    environment = {**engine.environment, "DOCKER_CONFIG": str(link.parents[1])}
    run(["docker", "compose", "version"], environment=environment)
    return DockerEngine(environment, engine.owned)


def _remove_containers(environment: Mapping[str, str]) -> None:
    containers = run(["docker", "ps", "--all", "--quiet"], environment=environment).split()
    if containers:
        run(["docker", "rm", "--force", "--volumes", *containers], environment=environment, seconds=120)
    run(["docker", "network", "prune", "--force"], environment=environment)


def _sweep(folder: Path) -> None:
    # Containers and their shims outlive a killed engine; their ids are folder names, their cgroups carry the id.
    containers = folder / "data/containers"
    identities = [entry.name for entry in containers.iterdir()] if containers.exists() else []
    leftover = [process for process in processes.everything() if _belongs(process.pid, folder, identities)]
    processes.kill(leftover)

    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(folder)), reverse=True):
        run(["umount", "--lazy", mount])
    if os.geteuid() == 0 and program("ip"):
        remove_bridges(bridge_name(folder), folder / "data/network/files/local-kv.db")
    for identity in identities:
        _forget(identity, folder)
    if folder.exists():
        shutil.rmtree(folder)


def _forget(identity: str, folder: Path) -> None:
    # A shim that was killed leaves its socket, named after the engine and the container, and the container's cgroups.
    address = f"{folder}/exec/containerd/containerd.sock/{bridge_name(folder)}/{identity}"
    Path("/run/containerd/s", hashlib.sha256(address.encode()).hexdigest()).unlink(missing_ok=True)
    for group in _CGROUPS.glob(f"**/docker/{identity}"):
        with suppress(OSError):
            group.rmdir()


def _belongs(pid: int, folder: Path, identities: list[str]) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    program_name = Path(os.fsdecode(arguments.partition(b"\0")[0])).name
    runtime = program_name.startswith("containerd") and os.fsencode(folder / "exec") in arguments
    return runtime or any(identity in groups for identity in identities)

"""The parts of the testbed: started once for all who use them, stopped by the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from testbed.docker_engine import DockerEngine, find_engine, start_engine, stop_engine
from testbed.flux import Flux, find_flux, flux_program, start_flux, stop_flux
from testbed.git_server import GitServer, find_git_server, start_git_server, stop_git_server
from testbed.gitolite import Gitolite, find_gitolite, start_gitolite, stop_gitolite
from testbed.helm import Helm, fetch_helm, find_helm, start_helm
from testbed.jgit_server import JgitServer, fetch_jgit, find_jgit_server, start_jgit_server, stop_jgit_server
from testbed.kubernetes_cluster import (
    KubernetesCluster,
    find_kubernetes,
    kubernetes_program,
    start_kubernetes,
    stop_kubernetes,
)
from testbed.kubernetes_node import find_node, node_program, start_node, stop_node
from testbed.oci_registry import (
    OciRegistry,
    find_referrers_registry,
    find_registry,
    referrers_program,
    start_referrers_registry,
    start_registry,
    stop_referrers_registry,
    stop_registry,
)
from testbed.places import in_use, locked
from testbed.postgresql_server import (
    PostgresqlServer,
    find_postgresql_server,
    start_postgresql_server,
    stop_postgresql_server,
)
from testbed.ssh_server import SshServer, find_ssh_server, start_ssh_server, stop_ssh_server


class Running(Protocol):
    """A running part; `environment` tells programs and people how to reach it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Return environment variables."""
        ...


R = TypeVar("R", bound=Running)


@dataclass(frozen=True, slots=True)
class Part(Generic[R]):
    """What the testbed can start.

    Attributes:
        name: its name on the command line.
        start: starts it, or finds it started; raises UnavailableError.
        find: returns it if it runs.
        stop: stops it, with all it left; does nothing where nothing is left.
        fetch: gets what takes minutes the first time, and starts nothing.
        extra: whether it costs too much for those who do not ask for it by name.
    """

    name: str
    start: Callable[[Path], R]
    find: Callable[[Path], R | None]
    stop: Callable[[Path], None]
    fetch: Callable[[Path], object] = lambda _: None
    extra: bool = False


DOCKER: Part[DockerEngine] = Part("docker", start_engine, find_engine, stop_engine)
GIT: Part[GitServer] = Part("git", start_git_server, find_git_server, stop_git_server)
SSH: Part[SshServer] = Part("ssh", start_ssh_server, find_ssh_server, stop_ssh_server)
GITOLITE: Part[Gitolite] = Part("gitolite", start_gitolite, find_gitolite, stop_gitolite)
JGIT: Part[JgitServer] = Part("jgit", start_jgit_server, find_jgit_server, stop_jgit_server, fetch_jgit)
POSTGRESQL: Part[PostgresqlServer] = Part(
    "postgresql", start_postgresql_server, find_postgresql_server, stop_postgresql_server
)
REGISTRY: Part[OciRegistry] = Part("registry", start_registry, find_registry, stop_registry)
KUBERNETES: Part[KubernetesCluster] = Part(
    "kubernetes", start_kubernetes, find_kubernetes, stop_kubernetes, kubernetes_program
)
HELM: Part[Helm] = Part("helm", start_helm, find_helm, lambda _: None, fetch_helm)
FLUX: Part[Flux] = Part("flux", start_flux, find_flux, stop_flux, flux_program, extra=True)
NODE: Part[KubernetesCluster] = Part("node", start_node, find_node, stop_node, node_program, extra=True)
REFERRERS: Part[OciRegistry] = Part(
    "registry-referrers",
    start_referrers_registry,
    find_referrers_registry,
    stop_referrers_registry,
    referrers_program,
    extra=True,
)
PARTS: Mapping[str, Part[Any]] = {
    part.name: part
    for part in (DOCKER, GIT, SSH, GITOLITE, JGIT, POSTGRESQL, REGISTRY, KUBERNETES, HELM, FLUX, NODE, REFERRERS)
}


def bring_up(part: Part[R], state: Path) -> R:
    """Start a part and keep it until `take_down`."""
    with _changing(part, state):
        running = part.start(state)
        _kept(part, state).touch()
        return running


def take_down(part: Part[R], state: Path) -> bool:
    """Stop a part; False if a test run uses it, which then stops it at its own end."""
    with _changing(part, state):
        _kept(part, state).unlink(missing_ok=True)
        if in_use(_users(part, state)):
            return False
        part.stop(state)
        return True


@contextmanager
def using(part: Part[R], state: Path) -> Iterator[R]:
    """Use a part: the first user of this machine starts it, the last one stops it unless a person brought it up.

    Raises:
        UnavailableError: it cannot run here.
    """
    with _changing(part, state):
        users = locked(_users(part, state), shared=True)
        users.__enter__()
        try:
            running = part.start(state)
        except BaseException:
            users.__exit__(None, None, None)
            raise
    try:
        yield running
    finally:
        with _changing(part, state):
            users.__exit__(None, None, None)
            if not _kept(part, state).exists() and not in_use(_users(part, state)):
                part.stop(state)


def _changing(part: Part[R], state: Path) -> AbstractContextManager[None]:
    return locked(state / "locks" / part.name)


def _users(part: Part[R], state: Path) -> Path:
    return state / "locks" / f"{part.name}-users"


def _kept(part: Part[R], state: Path) -> Path:
    return state / "locks" / f"{part.name}-kept"

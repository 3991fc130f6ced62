"""Fixtures of all tests: the real parts, each started once for all workers of a run and stopped by the last."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from support.git_cli import Git
from support.properties import register_profiles
from support.real import unavailable
from testbed.docker_engine import DockerEngine
from testbed.errors import UnavailableError
from testbed.git_server import GitServer
from testbed.parts import DOCKER, GIT, SSH, Part, Running, using
from testbed.places import state_folder
from testbed.ssh_server import SshServer

R = TypeVar("R", bound=Running)

register_profiles()


def _part(part: Part[R]) -> Iterator[R]:
    # The outcome is decided before the yield: an error of the tests themselves must not look like a missing part.
    try:
        context = using(part, state_folder())
        running = context.__enter__()
    except UnavailableError as error:
        unavailable(f"{part.name}: {error}")
    try:
        yield running
    finally:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """A Docker Engine with Compose v2 and the images margo-gitops-test/busybox:1 and :2."""
    yield from _part(DOCKER)


@pytest.fixture(scope="session")
def git_server() -> Iterator[GitServer]:
    """A git server over http, https and mutual TLS; see ServedRepository for its ways in."""
    yield from _part(GIT)


@pytest.fixture(scope="session")
def ssh_server() -> Iterator[SshServer]:
    """An ssh server that serves the repositories of this machine to git."""
    yield from _part(SSH)


@pytest.fixture
def git(tmp_path: Path) -> Callable[[str], Git]:
    """Makes `Git` for a folder below tmp_path: `git("fleet").init()`."""
    return lambda name: Git(tmp_path / name)

"""Fixtures of all tests: the real parts, each started once for all workers of a run and stopped by the last."""

import secrets
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from support.bucket_store import BUCKET, empty_store, environment, running_store, store_client
from support.collecting import no_search_for_garbage, rewrite_share
from support.git_cli import Git
from support.preloaded import AS_INSTALLED
from support.properties import register_profiles
from support.real import unavailable
from testbed.docker_engine import DockerEngine
from testbed.errors import UnavailableError
from testbed.flux import Flux
from testbed.git_server import GitServer
from testbed.gitolite import Gitolite
from testbed.helm import helm_program as downloaded_helm
from testbed.jgit_server import JgitServer
from testbed.kubernetes_cluster import KubernetesCluster, kubernetes_program, start_cluster, stop_cluster
from testbed.oci_registry import OciRegistry
from testbed.parts import (
    DOCKER,
    FLUX,
    GIT,
    GITOLITE,
    JGIT,
    KUBERNETES,
    NODE,
    POSTGRESQL,
    REFERRERS,
    REGISTRY,
    SSH,
    Part,
    Running,
    using,
)
from testbed.places import state_folder
from testbed.postgresql_server import PostgresqlServer
from testbed.ssh_server import SshServer

R = TypeVar("R", bound=Running)

register_profiles()
exec(AS_INSTALLED)
# A shell starts what runs in its background with control-C ignored, and commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

QUICK = ("documents", "rendering", "trust", "catalog", "editing", "transport", "appliers", "state_repo", "agent")
"""Folders whose tests need little but this process: they run first, and alone in `scripts/test quick`."""

_BUILT = frozenset({"kubernetes_cluster", "own_kubernetes_cluster", "flux", "kubernetes_node"})
"""Parts that are built first, for minutes, where nothing is built yet."""
_REAL = (
    frozenset(
        {
            "docker_engine",
            "git_server",
            "gitolite",
            "jgit_server",
            "ssh_server",
            "postgresql_server",
            "bucket_store",
            "oci_registry",
            "referrers_registry",
            "helm_program",
        }
    )
    | _BUILT
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person run what is quick alone, and the rest alone."""
    parser.addoption(
        "--quick", action="store_true", help=f"run only what needs no engine and no server, of: {', '.join(QUICK)}"
    )
    parser.addoption("--slow", action="store_true", help="run only what --quick leaves out")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Let the workers of a run divide what each of them would do."""
    config = session.config
    with no_search_for_garbage():
        rewrite_share(config, lambda folder: pytest_ignore_collect(folder, config) is True)
        return (yield)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Let quick tests not wait for the imports of the others."""
    slow = collection_path.parent == Path(__file__).parent and collection_path.name not in QUICK
    return True if slow and collection_path.is_dir() and config.getoption("--quick") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a real part, and let quick tests run first: a mistake shows in seconds."""
    root = Path(__file__).parent
    quick, slow, real, built = [], [], [], []
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if _REAL & fixtures:
            item.add_marker("real")
        if _BUILT & fixtures:
            # Last, and the wait for the build does not count.
            item.add_marker(pytest.mark.timeout(item.config.getini("timeout"), func_only=True))
            built.append(item)
        elif item.get_closest_marker("real"):
            real.append(item)
        else:
            (quick if item.path.relative_to(root).parts[0] in QUICK else slow).append(item)
    chosen = {(True, False): quick, (False, True): slow + real + built}.get(
        (config.getoption("--quick"), config.getoption("--slow")), quick + slow + real + built
    )
    left = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = chosen


def _part(part: Part[R]) -> Iterator[R]:
    # The outcome is decided before the yield: an error of the tests themselves must not look like a missing part.
    try:
        context = using(part, state_folder())
        running = context.__enter__()
    except UnavailableError as error:
        unavailable(f"{part.name}: {error}", extra=part.extra)
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


@pytest.fixture(scope="session")
def gitolite() -> Iterator[Gitolite]:
    """gitolite over ssh, with a rule that declines."""
    yield from _part(GITOLITE)


@pytest.fixture(scope="session")
def jgit_server() -> Iterator[JgitServer]:
    """JGit's HTTP server, the library inside Gerrit."""
    yield from _part(JGIT)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server; each test makes its own database."""
    yield from _part(POSTGRESQL)


@pytest.fixture(scope="session")
def oci_registry() -> Iterator[OciRegistry]:
    """Debian's registry; each test has repositories of its own."""
    yield from _part(REGISTRY)


@pytest.fixture(scope="session")
def referrers_registry() -> Iterator[OciRegistry]:
    """A registry that knows what refers to a manifest."""
    yield from _part(REFERRERS)


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Iterator[KubernetesCluster]:
    """A Kubernetes cluster whose node only says that it runs pods: see `kubernetes_namespace`."""
    yield from _part(KUBERNETES)


@pytest.fixture
def kubernetes_namespace(kubernetes_cluster: KubernetesCluster) -> Iterator[str]:
    """The name of a namespace of the test's own, deleted at its end with all that is in it."""
    from margo_gitops.appliers.kubernetes.client import ClusterClient  # loads a large package
    from margo_gitops.errors import ApplyError

    name, client = f"test-{secrets.token_hex(4)}", ClusterClient(kubernetes_cluster.kubeconfig)
    client.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    yield name
    with suppress(ApplyError):  # a test may have deleted it
        client.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def own_kubernetes_cluster() -> Iterator[KubernetesCluster]:
    """A cluster of the test's own, four seconds and half a gigabyte: for those that stop or kill its API server."""
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as folder:
        try:
            cluster = start_cluster(Path(folder, "cluster"), kubernetes_program(state_folder()))
        except UnavailableError as error:
            unavailable(f"kubernetes: {error}")
        try:
            yield cluster
        finally:
            stop_cluster(cluster.folder)


@pytest.fixture(scope="session")
def flux(kubernetes_cluster: KubernetesCluster) -> Iterator[Flux]:
    """Flux's kustomize-controller at work in that cluster; a test gives its sources what they would have fetched."""
    yield from _part(FLUX)


@pytest.fixture(scope="session")
def kubernetes_node() -> Iterator[KubernetesCluster]:
    """A cluster whose node runs pods of margo-gitops-test/busybox:1 and :2."""
    yield from _part(NODE)


@pytest.fixture(scope="session")
def helm_program(request: pytest.FixtureRequest) -> Path:
    """The path of helm 4; `@pytest.mark.parametrize("helm_program", [3, 4], indirect=True)` tests with 3.17 also."""
    try:
        return downloaded_helm(state_folder(), getattr(request, "param", 4))
    except UnavailableError as error:
        return unavailable(f"helm: {error}")


@pytest.fixture
def git(tmp_path: Path) -> Callable[[str], Git]:
    """Makes `Git` for a folder below tmp_path: `git("fleet").init()`."""
    return lambda name: Git(tmp_path / name)


@pytest.fixture(scope="session")
def bucket_store() -> Iterator[str]:
    """The endpoint of moto's S3 server."""
    with running_store() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(bucket_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of an S3 store with one empty bucket, which the environment leads to."""
    for name, value in environment(bucket_store).items():
        monkeypatch.setenv(name, value)
    with store_client() as client:
        client.create_bucket(Bucket=BUCKET)
    yield bucket_store
    empty_store()

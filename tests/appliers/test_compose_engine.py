"""The compose applier on a real engine."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from workload_making import artifact_of, compose_archive, entry, leftovers, tar_gz, tree, workload

from margo_gitops.appliers.applier import ApplierContext, HeldArtifact, Workload
from margo_gitops.appliers.compose import running as compose_running
from margo_gitops.appliers.compose.applier import ComposeApplier, create
from margo_gitops.appliers.compose.engine import ComposeEngine
from margo_gitops.appliers.compose.engine_socket import EngineSocket
from margo_gitops.appliers.compose.project import project_name
from margo_gitops.appliers.contract_kit import DEVICE, OTHER_DEVICE, ApplierContract, make_workload
from margo_gitops.digests import sha256
from margo_gitops.documents.capabilities import parse_quantity
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.errors import (
    ArtifactRefused,
    ArtifactUnavailable,
    ComposeInvalid,
    EngineUnavailable,
    InstallFailed,
    StorageFailed,
    WorkloadUnsupported,
)

pytestmark = pytest.mark.real

IMAGE = "margo-gitops-test/busybox:1"
NEXT_IMAGE = "margo-gitops-test/busybox:2"


def compose(image: str = IMAGE, command: str = "sleep 3600", extra: str = "") -> str:
    return f"""
services:
  web:
    image: {image}
    command: [sh, -c, "trap 'exit 0' TERM; {command} & wait $$!"]
    environment:
      GREETING: "${{GREETING:-none}}"
    restart: always
{extra}"""


DB = f"  db:\n    image: {IMAGE}\n    command: [sleep, '3600']\n    stop_signal: SIGKILL\n"


FAILING = compose(command="").replace("trap 'exit 0' TERM;  & wait $$!", "echo cannot find its disk; exit 3")


@dataclass
class Site:
    """An applier for a device of its own on the shared engine, with what a person at the engine would see."""

    folder: Path
    environment: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    device: str = field(default_factory=lambda: f"press-{uuid.uuid4().hex[:12]}")
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))

    def applier(self) -> ComposeApplier:
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        return create(ApplierContext(self.device, state, self.settings))

    def docker(self, *arguments: str) -> str:
        return subprocess.run(
            ["docker", *arguments], env=self.environment, capture_output=True, check=True, timeout=60
        ).stdout.decode()

    def containers(self) -> list[str]:
        listed = self.docker("ps", "-aq", "--no-trunc", "--filter", f"label=org.margo-gitops.device={self.device}")
        return sorted(listed.split())

    def variable(self, name: str) -> str | None:
        (container,) = json.loads(self.docker("inspect", *self.containers()))
        found = [item.partition("=")[2] for item in container["Config"]["Env"] if item.startswith(f"{name}=")]
        return found[0] if found else None

    def workload(self, source: str, values=None, files=None, **more) -> Workload:
        artifact = artifact_of(compose_archive(source, files), self.folder)
        return workload(artifact, values, deployment_id=more.pop("deployment_id", self.identity), **more)


@pytest.fixture
def site(docker_engine, tmp_path, monkeypatch) -> Iterator[Site]:
    environment = {**docker_engine.environment}
    for name in ("DOCKER_HOST", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    site = Site(tmp_path, environment)
    yield site
    if containers := site.containers():
        site.docker("rm", "--force", "--volumes", *containers)
    networks = site.docker("network", "ls", "-q", "--filter", f"name={site.identity}").split()
    if networks:
        site.docker("network", "rm", *networks)


@pytest.mark.parametrize("by", ["socket", "client"])
def test_the_engine_tells_what_it_is_and_offers(site, by, monkeypatch):
    if by == "client":
        monkeypatch.setattr(EngineSocket, "ask", lambda *_: None)
    applier = create(ApplierContext(site.device, site.folder, {}))
    asked = "{{.ServerVersion}} {{.NCPU}} {{.MemTotal}}"
    version, cores, memory = site.docker("info", "--format", asked).split()
    told = applier.facts()
    assert told["labels"]["org.margo-gitops.engine-version"] == version
    assert told["labels"]["org.margo-gitops.compose-version"] == site.docker("compose", "version", "--short").strip()
    properties = told["properties"]
    assert properties["cpus"][0]["cores"] == int(cores)
    assert 0 <= int(memory) - parse_quantity(properties["memory"]) < 1024**2


class TestContract(ApplierContract):
    """The promises on the engine; each device of the kit is one that is used nowhere else."""

    cuts = 2
    component = "hmi"

    @pytest.fixture(autouse=True)
    def _at(self, site, _folder_and_end):
        self.site = site

    def name(self, device):
        return f"{self.site.device}-{device}"

    def create(self, device):
        state = self.folder / f"state-{device}"
        state.mkdir(exist_ok=True)
        return create(ApplierContext(self.name(device), state, {}))

    def workload(self, key, kind):
        source = FAILING if kind == "broken" else compose(NEXT_IMAGE if kind == "second" else IMAGE)
        return make_workload(
            key, {"GREETING": kind}, artifact_of(compose_archive(source), self.folder), profile_type="compose"
        )

    def running(self):
        ids = [
            identity
            for device in (DEVICE, OTHER_DEVICE)
            for identity in self.site.docker(
                "ps", "-aq", "--no-trunc", "--filter", f"label=org.margo-gitops.device={self.name(device)}"
            ).split()
        ]
        found = json.loads(self.site.docker("inspect", *ids)) if ids else []
        return {item["Id"]: item["State"]["StartedAt"] for item in found}

    def stop(self, key):
        self.site.docker("rm", "--force", f"{project_name(key)}-web-1")


def test_a_component_is_installed_seen_and_removed(site):
    applier = site.applier()
    item = site.workload(compose(), {"GREETING": "Hello"})
    applier.prepare(item)
    assert site.containers() == []
    applier.install(item)
    (seen,) = applier.observe()
    assert (seen.key, seen.digest, seen.condition) == (item.key, item.digest, "running")
    assert site.variable("GREETING") == "Hello"
    applier.remove(item.key)
    assert list(applier.observe()) == []
    assert site.docker("network", "ls", "-q", "--filter", f"name={site.identity}") == ""
    assert tree(site.folder / "state") == {"lock", "artifacts", "workloads"}


def test_an_update_runs_in_place_with_the_new_content_and_parameters(site):
    applier = site.applier()
    applier.install(site.workload(compose(), {"GREETING": "old"}))
    item = site.workload(compose(NEXT_IMAGE), {"GREETING": "new"})
    applier.prepare(item)
    assert site.variable("GREETING") == "old"
    applier.install(item)
    assert site.variable("GREETING") == "new"
    assert site.variable("IMAGE_VERSION") == "2"
    (seen,) = applier.observe()
    assert seen.digest == item.digest
    ((image,),) = applier.images().values()
    expected = site.docker("inspect", "--format", "{{.Image}}", *site.containers()).strip()
    assert (image.part, image.name, image.id) == ("web", NEXT_IMAGE, expected)
    revisions = site.folder / "state/workloads" / str(item.key) / "revisions"
    assert [path.name for path in revisions.iterdir()] == [item.digest[7:]]
    assert len(list((site.folder / "state/artifacts").iterdir())) == 1


AWKWARD = (
    "", " ", "a b", " lead and trail ", "$HOME", "${HOME}", "$$", "$", "'", '"', "`id`", "\\", "a\\", "\\n",
    "a\nb\n", "#", "a #b", "a: b", "- x", "{}", "%s", "ü€😀", "\t", "=", "a=b", "'\"$\\", "!x", "*", "&a",
    "\r", "\x01", "on", "0123", "~",
)  # fmt: skip


def test_parameters_arrive_byte_for_byte(site):
    source = (
        "services:\n  web:\n    image: "
        + IMAGE
        + "\n    command: [sleep, '3600']\n    stop_signal: SIGKILL\n    environment:\n"
    )
    values = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    source += "".join(f'      I_{name}: "${{{name}}}"\n      {name}:\n' for name in values)
    site.applier().install(site.workload(source, values, wait=False))
    (container,) = json.loads(site.docker("inspect", *site.containers()))
    got = dict(item.split("=", 1) for item in container["Config"]["Env"])
    assert {name: got.get(name) for name in values} == values
    assert {name: got.get(f"I_{name}") for name in values} == values


def test_f1_an_image_that_cannot_be_pulled_leaves_the_old_container_up(site):
    applier = site.applier()
    applier.install(site.workload(compose()))
    before = site.containers()
    item = site.workload(compose("127.0.0.1:1/margo-gitops-test/none:9"))
    for step in (applier.prepare, applier.install):
        with pytest.raises(ArtifactUnavailable, match="none:9") as caught:
            step(item)
        assert "component hmi" in str(caught.value)
    assert site.containers() == before
    assert applier.observe()[0].condition == "running"


def test_f22_two_deployments_of_one_application_share_no_path_and_no_project(site):
    applier = site.applier()
    source = compose(extra="    volumes: [./conf:/conf:ro]\n")
    one = site.workload(source, files={"conf/x": b"1"})
    two = site.workload(source, files={"conf/x": b"1"}, deployment_id=str(uuid.uuid4()))
    try:
        applier.install(one)
        applier.install(two)
        found = json.loads(site.docker("inspect", *site.containers()))
        assert len({item["Config"]["Labels"]["com.docker.compose.project"] for item in found}) == 2
        assert len({item["Mounts"][0]["Source"] for item in found}) == 2
        applier.remove(one.key)
        assert [seen.key for seen in applier.observe()] == [two.key]
        assert applier.observe()[0].condition == "running"
    finally:
        applier.remove(two.key)


def test_f20_a_removed_component_leaves_nothing_that_keeps_it_alive(site):
    item = site.workload(compose())
    site.applier().install(item)
    site.applier().remove(item.key)
    site.applier().remove(item.key)
    assert list(site.applier().observe()) == []
    assert tree(site.folder / "state/workloads") == set()


def test_a_removal_needs_no_folder_only_labels(site):
    item = site.workload(compose())
    site.applier().install(item)
    subprocess.run(["rm", "-r", site.folder / "state"], check=True)
    site.applier().remove(item.key)
    assert site.containers() == []


@pytest.mark.parametrize("lost", ["state", "state/artifacts", "record"])
def test_f14_lost_or_damaged_files_of_the_applier_are_made_again(site, lost):
    item = site.workload(compose())
    site.applier().install(item)
    before = site.containers()
    if lost == "record":
        next((site.folder / "state/workloads").rglob("revision.json")).write_bytes(b"{")
    else:
        subprocess.run(["rm", "-r", site.folder / lost], check=True)
    site.applier().install(item)
    assert len(site.containers()) == 1
    later = site.workload(compose(), {"GREETING": "later"})
    site.applier().install(later)
    assert site.variable("GREETING") == "later"
    assert before != site.containers()


def test_a_component_that_does_not_start_gives_way_to_the_previous_one(site):
    applier = site.applier()
    good = site.workload(compose(), {"GREETING": "good"})
    applier.install(good)
    bad = site.workload(FAILING, {"GREETING": "verysecret"})
    applier.prepare(bad)
    with pytest.raises(InstallFailed, match="component hmi of line-hmi") as caught:
        applier.install(bad)
    assert caught.value.reinstated
    assert "web: cannot find its disk" in str(caught.value)
    assert "verysecret" not in str(caught.value)
    (seen,) = applier.observe()
    assert (seen.digest, seen.condition) == (good.digest, "running")
    assert site.variable("GREETING") == "good"
    again = site.workload(compose(), {"GREETING": "mended"})
    applier.install(again)
    assert site.variable("GREETING") == "mended"


def test_a_program_that_does_not_exist_is_told_with_the_engines_reason(site):
    with pytest.raises(InstallFailed, match="nowhere") as caught:
        site.applier().install(site.workload(f"services:\n  web:\n    image: {IMAGE}\n    command: [/nowhere]\n"))
    assert caught.value.remedy


UNHEALTHY = "    healthcheck: {test: [CMD, 'false'], interval: 1s, retries: 1, start_period: 0s}\n"
NEVER_HEALTHY = "    healthcheck: {test: [CMD, 'sleep', '60'], interval: 1s, timeout: 50s}\n"
HEALTHY = "    healthcheck: {test: [CMD, 'true'], interval: 1s}\n"


@pytest.mark.parametrize(
    ("check", "timeout", "reason"), [(UNHEALTHY, "0m30s", "unhealthy"), (NEVER_HEALTHY, "0m4s", "in time")]
)
def test_a_component_that_is_not_healthy_in_time_has_failed(site, check, timeout, reason):
    good = site.workload(compose(extra=HEALTHY))
    site.applier().install(good)
    with pytest.raises(InstallFailed, match=reason) as caught:
        site.applier().install(site.workload(compose(extra=check), timeout=timeout))
    assert caught.value.reinstated
    assert site.applier().observe()[0].digest == good.digest


def test_without_wait_the_installation_does_not_wait_for_health(site):
    applier = site.applier()
    applier.install(site.workload(compose(extra=NEVER_HEALTHY), wait=False))
    assert applier.observe()[0].condition == "starting"


def test_a_service_that_runs_once_and_ends_well_is_no_failure(site):
    source = compose(extra="    depends_on: {init: {condition: service_completed_successfully}}\n")
    source += f"  init:\n    image: {IMAGE}\n    command: [sh, -c, 'exit 0']\n"
    applier = site.applier()
    applier.install(site.workload(source))
    assert applier.observe()[0].condition == "running"
    assert len(site.containers()) == 2


def test_a_container_that_somebody_removed_is_missed_and_comes_back(site):
    applier = site.applier()
    item = site.workload(compose(extra=DB))
    applier.install(item)
    kept = site.docker("ps", "-q", "--no-trunc", "--filter", f"name={site.identity}-web").strip()
    site.docker("rm", "--force", f"{project_name(item.key)}-db-1")
    assert "db: missing" in applier.observe()[0].detail
    applier.install(item)
    assert applier.observe()[0].condition == "running"
    assert kept in site.containers()


def test_a_service_that_is_gone_from_the_file_is_gone_from_the_engine(site):
    applier = site.applier()
    applier.install(site.workload(compose(extra=DB)))
    applier.install(site.workload(compose()))
    assert len(site.containers()) == 1


@pytest.mark.parametrize(
    ("source", "values", "error", "reason"),
    [
        ("services: [\n", {}, ComposeInvalid, "refuses"),
        ("services:\n  web:\n    imag: x\n", {}, ComposeInvalid, "imag"),
        ("services: {}\n", {}, ComposeInvalid, ""),
        (compose(extra="    ports: ['${PORT}:80']\n"), {"PORT": "verysecret"}, ComposeInvalid, "PORT"),
        (compose(extra="    volumes: [./data:/data]\n"), {}, ComposeInvalid, "app/data"),
        (compose(extra="    volumes: [./conf:/data]\n"), {}, ComposeInvalid, "conf in its content; the next update"),
        (compose(extra="    volumes: [../../data:/data]\n"), {}, ComposeInvalid, "not in its content"),
        (compose(), {"GREETING": "x" * 140_000}, WorkloadUnsupported, "140000 characters"),
        (compose(extra="    env_file: none.env\n"), {}, ComposeInvalid, "none.env"),
        (compose(), {"a.b": "x"}, WorkloadUnsupported, "a.b"),
    ],
)
def test_a_compose_file_that_cannot_be_used_is_refused_before_anything_is_touched(site, source, values, error, reason):
    applier = site.applier()
    applier.install(site.workload(compose()))
    before = site.containers()
    with pytest.raises(error, match=reason or None) as caught:
        applier.prepare(site.workload(source, values, {"conf/app.conf": b"x"}))
    assert "hmi" in str(caught.value)
    assert "verysecret" not in str(caught.value)
    assert caught.value.remedy
    assert site.containers() == before
    assert leftovers(site.folder) == []


def test_content_without_a_compose_file_is_refused(site):
    artifact = artifact_of(tar_gz(entry("app/readme", b"x")), site.folder)
    with pytest.raises(ComposeInvalid, match=r"no compose\.yaml"):
        site.applier().prepare(workload(artifact))


def test_a_deployment_without_content_is_refused(site):
    with pytest.raises(WorkloadUnsupported, match="names no content"):
        site.applier().prepare(workload(None))


def test_tampered_content_is_refused_and_what_runs_keeps_running(site):
    applier = site.applier()
    applier.install(site.workload(compose()))
    before = site.containers()
    item = site.workload(compose(NEXT_IMAGE))
    Path(item.artifact.url.removeprefix("file://")).write_bytes(compose_archive(compose(command="evil")))
    with pytest.raises(ArtifactRefused):
        applier.prepare(item)
    assert site.containers() == before


def test_an_engine_that_does_not_run_is_named(site, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{site.folder}/none.sock")
    applier = site.applier()
    item = site.workload(compose())
    for step in (
        lambda: applier.prepare(item),
        lambda: applier.install(item),
        applier.observe,
        lambda: applier.remove(item.key),
    ):
        with pytest.raises(EngineUnavailable, match="docker engine does not answer") as caught:
            step()
        assert "none.sock" in str(caught.value)
        assert "start it" in caught.value.remedy
    monkeypatch.setenv("DOCKER_HOST", site.environment["DOCKER_HOST"])


def test_a_missing_client_is_told(site, monkeypatch):
    monkeypatch.setenv("PATH", str(site.folder))
    with pytest.raises(EngineUnavailable, match="there is no docker client") as caught:
        site.applier().install(site.workload(compose()))
    assert "Compose v2" in caught.value.remedy
    monkeypatch.setenv("PATH", site.environment["PATH"])


def test_a_full_disk_keeps_what_runs_and_nothing_half_done(site):
    good = site.workload(compose())
    site.applier().install(good)
    disk = site.folder / "state/workloads" / str(good.key) / "revisions"
    bad = site.workload(compose(), {"GREETING": "x"}, files={"big": os.urandom(900_000)})
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = site.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "x", small], check=True)
    try:
        subprocess.run(["cp", "-a", *disk.iterdir(), small], check=True)
        subprocess.run(["mount", "--bind", small, disk], check=True)
        before = site.containers()
        try:
            with pytest.raises(StorageFailed, match="no space left") as caught:
                site.applier().prepare(bad)
        finally:
            subprocess.run(["umount", disk], check=True)
        assert "free space" in caught.value.remedy
        assert leftovers(site.folder) == []
        assert site.containers() == before
    finally:
        subprocess.run(["umount", small], check=True)
    site.applier().install(bad)
    assert site.variable("GREETING") == "x"


def test_containers_of_somebody_else_are_never_touched(site):
    item = site.workload(compose())
    name = f"{project_name(item.key)}-web-1"
    labels = [
        "--label",
        f"com.docker.compose.project={project_name(item.key)}",
        "--label",
        "com.docker.compose.service=web",
    ]
    site.docker("run", "--detach", "--name", name, *labels, IMAGE, "sleep", "3600")
    try:
        for step in (lambda: site.applier().install(item), lambda: site.applier().remove(item.key)):
            with pytest.raises(WorkloadUnsupported, match="not this device's"):
                step()
        assert site.docker("inspect", "--format", "{{.State.Running}}", name).strip() == "true"
    finally:
        site.docker("rm", "--force", name)


def test_volumes_outlive_a_removal_unless_configured_otherwise(site):
    source = compose(extra="    volumes: [data:/data]\nvolumes:\n  data:\n")
    item = site.workload(source)
    volumes = ["volume", "ls", "-q", "--filter", f"name={site.identity}"]
    site.applier().install(item)
    site.applier().remove(item.key)
    assert len(site.docker(*volumes).split()) == 1
    site.settings["removeVolumes"] = True
    site.applier().install(item)
    site.applier().remove(item.key)
    assert site.docker(*volumes) == ""


def _install(site: Site, item: Workload) -> None:
    os.setsid()
    for name, value in site.environment.items():
        os.environ[name] = value
    site.applier().install(item)


@pytest.mark.parametrize("after", [0.2, 0.9])
def test_an_installation_that_was_killed_is_finished_by_the_next(site, after):
    old = site.workload(compose(), {"GREETING": "old"})
    site.applier().install(old)
    new = site.workload(compose(NEXT_IMAGE), {"GREETING": "new"})
    agent = multiprocessing.get_context("spawn").Process(target=_install, args=(site, new))
    agent.start()
    deadline = time.monotonic() + after + 0.3
    while agent.is_alive() and time.monotonic() < deadline:
        agent.join(0.02)
    if agent.pid and agent.is_alive():
        os.kill(agent.pid, signal.SIGKILL)
    agent.join()
    agent.close()
    site.applier().install(new)
    (seen,) = site.applier().observe()
    assert (seen.digest, seen.condition) == (new.digest, "running")
    assert site.variable("GREETING") == "new"
    assert leftovers(site.folder) == []


def test_a_removal_that_was_cut_off_is_finished_by_the_next(site):
    item = site.workload(compose())
    site.applier().install(item)
    site.docker("rm", "--force", *site.containers())
    site.applier().remove(item.key)
    assert site.docker("network", "ls", "-q", "--filter", f"name={site.identity}") == ""
    assert tree(site.folder / "state/workloads") == set()


def test_a_replacement_that_a_killed_compose_left_beside_the_running_one_is_cleared(site):
    applier = site.applier()
    item = site.workload(compose(), {"GREETING": "old"})
    applier.install(item)
    (running,) = json.loads(site.docker("inspect", *site.containers()))
    # What Compose makes before it stops the old container: see its recreate step.
    labels = [part for name, value in running["Config"]["Labels"].items() for part in ("--label", f"{name}={value}")]
    site.docker("create", "--name", f"{running['Id'][:12]}_{running['Name'][1:]}", *labels, IMAGE, "sleep", "1")
    applier.install(site.workload(compose(), {"GREETING": "new"}))
    assert site.variable("GREETING") == "new"


def test_a_compose_file_where_the_agent_happens_to_run_is_never_used(site, monkeypatch):
    item = site.workload(compose())
    site.applier().install(item)
    elsewhere = site.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "compose.yaml").write_text("services: [\n")
    monkeypatch.chdir(elsewhere)
    subprocess.run(["rm", "-r", site.folder / "state"], check=True)
    site.applier().remove(item.key)
    assert site.containers() == []


ONCE = f"  init:\n    image: {IMAGE}\n    command: [sh, -c, 'exit 0']\n"

STATES = {
    "replicas 0": DB + "    deploy: {replicas: 0}\n",
    "scale 0": DB + "    scale: 0\n",
    "on-failure with a count": ONCE + "    restart: on-failure:5\n",
    "restart no": ONCE + "    restart: 'no'\n",
    "restart in deploy": ONCE + "    deploy: {restart_policy: {condition: on-failure}}\n",
    "a profile that is not asked for": DB + "    profiles: [debug]\n",
    "an init container": ONCE
    + f"  app:\n    image: {IMAGE}\n    command: [sleep, '3600']\n    stop_signal: SIGKILL\n"
    + "    depends_on: {init: {condition: service_completed_successfully}}\n",
    "an optional service that is not there": f"  app:\n    image: {IMAGE}\n    command: [sleep, '3600']\n"
    "    stop_signal: SIGKILL\n    depends_on: {web: {condition: service_started, required: false}}\n",
    "two replicas": DB + "    deploy: {replicas: 2}\n",
    "pull policy never": DB + "    pull_policy: never\n",
    "pull policy always, without a registry": DB + "    pull_policy: always\n",
}


@pytest.mark.parametrize("services", STATES.values(), ids=STATES)
def test_what_compose_allows_runs_and_is_left_alone(site, services):
    item = site.workload(compose(extra=services))
    applier = site.applier()
    applier.install(item)
    (state,) = applier.observe()
    assert (state.condition, state.digest) == ("running", item.digest), state.detail
    before = site.containers()
    site.applier().install(item)
    assert site.containers() == before


def test_an_image_that_may_not_be_pulled_must_be_there(site):
    source = compose("margo-gitops-test/absent:1", extra="    pull_policy: never\n")
    with pytest.raises(ArtifactUnavailable, match="not on this device"):
        site.applier().prepare(site.workload(source))


def test_a_paused_container_runs_again(site):
    item = site.workload(compose())
    site.applier().install(item)
    site.docker("pause", *site.containers())
    assert site.applier().observe()[0].condition == "degraded"
    site.applier().install(item)
    assert site.applier().observe()[0].condition == "running"


def test_a_one_off_container_of_a_person_stops_neither_update_nor_removal(site):
    item = site.workload(compose())
    applier = site.applier()
    applier.install(item)
    (file,) = site.folder.glob("state/**/compose.yaml")
    project = project_name(item.key)
    site.docker(
        "compose", "-p", project, "-f", str(file), "run", "-d", "--name", f"{site.device}-off", "web", "sleep", "60"
    )
    assert applier.observe()[0].condition == "running"
    applier.install(site.workload(compose(NEXT_IMAGE)))
    assert applier.observe()[0].condition == "running"
    applier.remove(item.key)
    assert applier.observe() == []
    site.docker("rm", "--force", f"{site.device}-off")


def test_a_port_that_is_taken_is_told_with_its_number(site):
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = str(taken.getsockname()[1])
        item = site.workload(compose(extra="    ports: ['${PORT}:80']\n"), {"PORT": port})
        with pytest.raises(InstallFailed) as caught:
            site.applier().install(item)
    assert f":{port}" in " ".join(caught.value.why), caught.value.why


def test_the_health_of_what_ended_as_it_should_does_not_count(site):
    source = f"""
services:
  init:
    image: {IMAGE}
    command: [sleep, "1"]
    healthcheck: {{test: ["CMD", "true"], interval: 1h}}
"""
    site.applier().install(site.workload(source))
    (found,) = site.applier().observe()
    assert found.condition == "running"


def test_the_api_and_the_client_say_the_same(site):
    checked = compose(extra='    healthcheck: {test: ["CMD", "true"], interval: 1s}\n') + DB
    item = site.workload(checked)
    applier = site.applier()
    applier.install(item)
    engine = applier.engine
    programs = ComposeEngine(("docker", "compose"), site.environment)

    def told(by: ComposeEngine) -> tuple[object, ...]:
        found = sorted(by.containers("org.margo-gitops.device", site.device), key=lambda each: each.identity)
        histories = {
            identity: (each.restarts, each.health, each.check_seconds) for identity, each in by.histories(found).items()
        }
        shown = [(each.identity, each.state, each.labels, each.condition) for each in found]
        return shown, histories, by.run_name()

    assert told(engine) == told(programs)
    assert {each[1] for each in told(engine)[1].values()} == {"healthy", ""}
    site.docker("stop", "--time", "0", f"{project_name(item.key)}-web-1")
    site.docker("pause", f"{project_name(item.key)}-db-1")
    assert told(engine) == told(programs)
    site.docker("unpause", f"{project_name(item.key)}-db-1")


def test_what_a_person_changes_is_told_from_a_crash_and_repaired(site, monkeypatch):
    monkeypatch.setattr(compose_running, "_SETTLE_SECONDS", 0.1)
    source = compose(extra="    volumes: ['./page.html:/page.html:ro']\n").replace("always", "unless-stopped")
    source += f"""  db:
    image: {IMAGE}
    command: [sh, -c, "trap 'exit 3' USR1; while :; do sleep 0.1; done"]
    stop_signal: SIGKILL
"""
    item = site.workload(source, files={"page.html": b"as installed\n"})
    applier = site.applier()
    applier.install(item)
    web, db = (f"{project_name(item.key)}-{name}-1" for name in ("web", "db"))

    def found() -> tuple[str, str, str]:
        (seen,) = site.applier().observe()
        assert seen.digest == item.digest
        return seen.condition, seen.by_hand, applier.stopped_by_hand(item.key) if seen.condition == "degraded" else ""

    def repaired() -> None:
        applier.prepare(item)
        applier.install(item)
        assert found() == ("running", "", "")
        assert len(site.containers()) == 2

    site.docker("pause", web)
    assert found() == ("degraded", "web is paused", "")
    repaired()
    site.docker("stop", "--time", "0", web)
    assert found() == ("degraded", "", "web was stopped")
    repaired()
    site.docker("stop", "--time", "0", db)
    assert found() == ("degraded", "", "db was stopped")
    repaired()
    site.docker("exec", db, "kill", "-USR1", "1")
    site.docker("wait", db)
    assert found() == ("degraded", "", ""), "a crash is nobody's will"
    repaired()
    site.docker("rm", "--force", db)
    assert found() == ("degraded", "", "db was removed")
    repaired()

    page = next((site.folder / "state").glob("workloads/*/*/revisions/*/content/*/page.html"))
    page.chmod(0o644)
    page.write_text("edited\n")
    assert found()[:2] == ("degraded", f"{page.relative_to(page.parents[2])} was edited")
    repaired()
    assert site.docker("exec", web, "cat", "/page.html") == "as installed\n"

    labels = json.loads(site.docker("inspect", "--format", "{{json .Config.Labels}}", web))
    ours = [f"--label={name}={text}" for name, text in labels.items() if name.startswith("org.margo-gitops.")]
    site.docker("run", "--detach", *ours, IMAGE, "sleep", "3600")
    assert found()[1].endswith(" was started by hand")
    running = site.docker("inspect", "--format", "{{.State.StartedAt}}", web)
    repaired()
    assert site.docker("inspect", "--format", "{{.State.StartedAt}}", web) == running, "only the extra one goes"
    override = page.parents[2] / "override.yaml"
    changed = json.loads(override.read_text())
    changed["services"]["web"]["environment"] = {"GREETING": "by hand"}
    (site.folder / "by-hand.yaml").write_text(json.dumps(changed))
    site.docker("compose", "--project-name", project_name(item.key), "--file", str(page.parent / "compose.yaml"),
                "--file", str(site.folder / "by-hand.yaml"), "up", "--detach", "web")  # fmt: skip
    assert found()[:2] == ("degraded", "web was started with other settings")
    repaired()


def test_each_container_reads_its_artifacts_and_cannot_change_them(site):
    model = site.folder / "model"
    model.write_bytes(b"weights")
    wanted = LargeArtifact("model.onnx", ("https://x.example/m",), sha256(b"weights"), 7)
    command = "cat $$ARTIFACT_MODEL_ONNX; echo x > $$ARTIFACT_MODEL_ONNX; sleep 3600"
    asked = replace(site.workload(compose(command=command, extra=DB)), artifacts=(HeldArtifact(wanted, model),))
    applier = site.applier()
    applier.prepare(asked)
    applier.prepare(asked)
    applier.install(asked)
    mounted = [
        (mount["Destination"], mount["RW"])
        for container in json.loads(site.docker("inspect", *site.containers()))
        for mount in container["Mounts"]
    ]
    assert mounted == [("/run/artifacts/model.onnx", False)] * 2
    assert [each.condition for each in applier.observe()] == ["running"]
    assert model.read_bytes() == b"weights"

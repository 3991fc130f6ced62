"""The device's policy in the compose applier: judged before anything is touched, from what Compose itself makes."""

import json
from pathlib import Path

import pytest
from support.host_attacks import HARMLESS, READS, SERVICE
from workload_making import artifact_of, compose_archive, leftovers, workload

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.artifacts import create_artifact_cache
from margo_gitops.appliers.compose.applier import ComposeApplier, create
from margo_gitops.appliers.compose.engine import ComposeEngine
from margo_gitops.appliers.compose.policing import ComposePolicy
from margo_gitops.appliers.compose.revision import OVERRIDE
from margo_gitops.appliers.programs import Finished
from margo_gitops.appliers.settings import Settings
from margo_gitops.documents.compose_yaml import read_compose
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import ApplyError, ComposeInvalid, WorkloadForbidden


class Told(ComposeEngine):
    """Notes what it is asked; `config` prints what the files say, as Compose does where nothing is to be resolved."""

    def __init__(self) -> None:
        super().__init__(("docker", "compose"), {})
        self.asked: list[str] = []

    def compose(self, *arguments, **_more) -> Finished:
        self.asked.append(next(word for word in arguments if word in ("config", "up", "down")))
        file = Path(arguments[arguments.index("--file") + 1])
        assert _more["folder"] == file.parent  # READS-5
        return Finished(0, json.dumps(read_compose(file.read_bytes(), file.name).value), "")

    def client(self, *arguments, **_more) -> Finished:
        self.asked.append(arguments[0])
        return Finished(0, "", "")


@pytest.fixture
def engine() -> Told:
    return Told()


@pytest.fixture
def applier(tmp_path, engine):
    def made(policy: WorkloadPolicy | None = None) -> ComposeApplier:
        artifacts = create_artifact_cache(ApplierContext("press-07", tmp_path, {}), Settings("compose", {}))
        limits = ComposePolicy(policy or WorkloadPolicy())
        return ComposeApplier("press-07", tmp_path, engine, artifacts, policy=limits)

    return made


def wants(folder, text: str, values=None, files=None, identity=None):
    return workload(artifact_of(compose_archive(text, files), folder), values, deployment_id=identity)


def test_what_is_refused_was_not_pulled_nor_kept(applier, engine, tmp_path):
    asked = wants(tmp_path, "services: {web: {image: a, network_mode: host}}")
    with pytest.raises(WorkloadForbidden, match=r"hmi of line-hmi asks for \[MG1610\]") as caught:
        applier().prepare(asked)
    assert caught.value.why == ("service web: network_mode: host (allowed by `workloads.hostNetwork: true`)",)
    assert caught.value.reinstated
    assert set(engine.asked) == {"ps", "config"}
    assert leftovers(tmp_path) == []
    assert not list(tmp_path.rglob(OVERRIDE))
    applier(WorkloadPolicy(host_network=True)).prepare(asked)
    assert "image" in engine.asked


@pytest.mark.parametrize("text", READS, ids=[*READS])
def test_a_file_that_reads_more_than_its_content_does_not_reach_compose(applier, engine, tmp_path, text):
    files = {
        "sub/inner.yaml": b"services: {db: {image: a}}",
        "sub/hidden.yaml": b"services: {db: {image: a, env_file: /etc/shadow}}",
        "sub/up.yaml": b"services: {db: {image: a, env_file: ../../../../../../secret.env}}",
    }
    with pytest.raises(WorkloadForbidden):
        applier().prepare(wants(tmp_path, text, files=files))
    assert engine.asked == ["ps"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("text", ["a: !!binary YQ==\n", f"a: {'x' * (1024 * 1024)}\n", 'include: ["a\\0b"]\n'])
def test_a_file_that_cannot_be_judged_does_not_reach_compose(applier, engine, tmp_path, text):
    with pytest.raises((ComposeInvalid, WorkloadForbidden)):
        applier().prepare(wants(tmp_path, text))
    assert engine.asked == ["ps"]


def test_a_stricter_policy_counts_from_the_next_change_on(applier, engine, tmp_path):
    asked = wants(tmp_path, "services: {web: {image: a, privileged: true}}")
    applier(WorkloadPolicy(privileged=True)).prepare(asked)
    with pytest.raises(WorkloadForbidden):  # prepared, and not installed yet
        applier().prepare(asked)


def test_a_parameter_that_asks_for_more_stays_a_secret(applier, tmp_path):
    text = "services: {web: {image: a, volumes: [/srv/very-secret:/x]}}"
    with pytest.raises(WorkloadForbidden) as caught:
        applier().prepare(wants(tmp_path, text, {"WHERE": "very-secret"}))
    assert "very-secret" not in str(caught.value)
    assert "/srv/<WHERE>" in str(caught.value)


def test_compose_fetches_no_files_by_itself(tmp_path):
    def environment(policy: WorkloadPolicy) -> dict[str, str]:
        return create(ApplierContext("press-07", tmp_path, {}, workloads=policy)).engine._environment

    off = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false"}
    assert off.items() <= environment(WorkloadPolicy()).items()
    assert not off.items() & environment(WorkloadPolicy(unrestricted=True)).items()


@pytest.mark.real
def test_compose_itself_hides_nothing_from_the_policy(docker_engine, tmp_path, monkeypatch):
    for name, value in docker_engine.environment.items():
        monkeypatch.setenv(name, value)
    applier = create(ApplierContext("press-07", tmp_path, {}))
    hidden = [
        # anchors and merges, variables, extends and include of the content, a switched profile, an override tag
        "x-p: &p {privileged: true}\nservices: {web: {<<: *p, image: no/such}}",
        "services: {web: {image: no/such, pid: '${WHO:-host}', network_mode: '${N}'}}",
        "services: {web: {extends: {file: base.yaml, service: base}}}",
        "include: [base.yaml]",
        "services: {web: {image: no/such, profiles: [p], cap_add: [ALL]}}",
        "services: {web: {image: no/such, volumes: ['${WHERE:-/}:/host']}}",
        "services: {web: {image: no/such, volumes: [vol:/x]}}\nvolumes: {vol: {driver_opts: {o: bind, device: /}}}",
        *(f"services: {{web: {{image: no/such, {text}}}}}" for text in list(SERVICE)[16:24]),
    ]
    files = {"base.yaml": b"services: {base: {image: no/such, ipc: host}}", ".env": b"COMPOSE_PROFILES=p\nN=host\n"}
    for text in hidden:
        with pytest.raises(WorkloadForbidden):
            applier.prepare(wants(tmp_path, text, files=files))
    harmless = HARMLESS.replace("registry.example.com/acme/hmi:1.4.2", "no/such").replace("post_start", "x-post")
    with pytest.raises(ApplyError, match="cannot be pulled"):  # the first thing after the policy
        applier.prepare(wants(tmp_path, harmless, files={"conf/a": b"", "app.ini": b""}))
    # Compose takes this env_file from where it runs: an agent that runs in / would give it /etc/x.env.
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/x.env").write_text("MODE=host")
    monkeypatch.chdir(tmp_path)
    files = {
        "a.yaml": b"include: [{path: b.yaml, env_file: ../etc/x.env}]",
        "u/b.yaml": b"services: {db: {image: no/such, network_mode: '$MODE'}}",
        "etc/x.env": b"MODE=none",
        "u/$$": b"",
    }
    mounts = "services: {web: {image: no/such, volumes: ['./u/$$$$:/x:ro']}}"
    text = f"include: [{{path: a.yaml, project_directory: u}}]\n{mounts}"
    with pytest.raises(ApplyError, match="cannot be pulled"):
        applier.prepare(wants(tmp_path, text, files=files))

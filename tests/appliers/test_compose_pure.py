import base64
import json
import os
import shlex
import signal
import time
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_making import artifact_of, compose_archive, workload

from margo_gitops.appliers import programs
from margo_gitops.appliers.applier import ApplierContext, WorkloadKey
from margo_gitops.appliers.artifacts import create_artifact_cache
from margo_gitops.appliers.compose import running as compose_running
from margo_gitops.appliers.compose.applier import ComposeApplier
from margo_gitops.appliers.compose.engine import ComposeEngine, History
from margo_gitops.appliers.compose.project import (
    COMPONENT,
    DEPLOYMENT,
    DEVICE,
    DIGEST,
    ONCE,
    PROJECT,
    SERVICE,
    SERVICES,
    Container,
    environment_of,
    observed,
    override_file,
    project_name,
    secret_variable,
)
from margo_gitops.appliers.compose.revision import Revision, RevisionRecord
from margo_gitops.appliers.compose.running import RunningProject
from margo_gitops.appliers.compose.source import read_model
from margo_gitops.appliers.programs import Finished, Secret, redacted
from margo_gitops.appliers.settings import Settings
from margo_gitops.documents.compose_variables import parameter_text
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import (
    ArtifactUnavailable,
    ComposeInvalid,
    EngineUnavailable,
    InstallFailed,
    StepInterrupted,
    WorkloadUnsupported,
)

IDS = st.uuids().map(str)
COMPONENTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,198}[a-z0-9])?", fullmatch=True)


@given(COMPONENTS, IDS)
def test_a_project_name_is_valid_for_compose_bounded_and_holds_the_whole_id(component, identity):
    name = project_name(WorkloadKey(identity, component))
    assert len(name) <= 97
    assert name.endswith(identity)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert name[0].isalnum()


@given(COMPONENTS, COMPONENTS, IDS, IDS)
def test_f22_two_workloads_never_share_a_project(one, other, identity, another):
    keys = {WorkloadKey(identity, one), WorkloadKey(another, other), WorkloadKey(identity, other)}
    assert len({project_name(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"), (True, "true"), (False, "false"), (0, "0"), (-7, "-7"), (2.0, "2.0"), (0.1, "0.1"), ("", ""),
        ((), "[]"), (("a", 'b"', "ü"), '["a","b\\"","ü"]'), ((1, 2.5, True), "[1,2.5,true]"),
    ],
)  # fmt: skip
def test_values_become_text(value, text):
    assert parameter_text(value) == text


def test_a_pointer_may_carry_the_old_prefix():
    assert environment_of(workload(None, {"ENV.GREETING": "Hello", "PORT": 80})) == {"GREETING": "Hello", "PORT": "80"}


@pytest.mark.parametrize(
    "pointer", ["a.b", "1A", "A-B", "", "A=B", "PATH", "DOCKER_HOST", "COMPOSE_FILE", "LD_PRELOAD"]
)
def test_a_pointer_that_no_service_can_get_is_refused(pointer):
    with pytest.raises(WorkloadUnsupported, match="hmi"):
        environment_of(workload(None, {pointer: "x"}))


def test_compose_profiles_may_be_chosen_by_a_parameter():
    assert environment_of(workload(None, {"COMPOSE_PROFILES": "debug"})) == {"COMPOSE_PROFILES": "debug"}


def test_a_value_with_a_nul_is_refused_without_showing_it():
    with pytest.raises(WorkloadUnsupported, match="NUL") as caught:
        environment_of(workload(None, {"KEY": "secret\0"}))
    assert "secret" not in str(caught.value)


def test_every_container_is_labelled_and_no_value_is_written_into_the_override():
    item = workload(None, {"KEY": "verysecret"})
    override = override_file(item, "press-07", {"web": {"restart": "always", "image": "x"}, "init": {"build": "."}})
    assert b"verysecret" not in override
    services = json.loads(override)["services"]
    assert services["web"]["labels"] == {
        DEVICE: "press-07",
        DEPLOYMENT: item.key.deployment_id,
        COMPONENT: "hmi",
        DIGEST: item.digest,
        SERVICES: "init,web",
        ONCE: "false",
    }
    assert services["web"]["pull_policy"] == "missing"
    assert "pull_policy" not in services["init"]
    assert services["init"]["labels"][ONCE] == "true"


def container(service, state, status, *, once="false", services="db,web", digest="sha256:" + "0" * 64, key="k"):
    labels = {DEPLOYMENT: key, COMPONENT: "hmi", DIGEST: digest, SERVICES: services, SERVICE: service, ONCE: once}
    return Container("0" * 64, state, status, labels)


UP = container("web", "running", "Up 2 minutes")


@pytest.mark.parametrize(
    ("other", "condition"),
    [
        (container("db", "running", "Up 2 minutes (healthy)"), "running"),
        (container("db", "running", "Up 2 minutes (health: starting)"), "starting"),
        (container("db", "created", "Created"), "starting"),
        (container("db", "running", "Up 2 minutes (unhealthy)"), "degraded"),
        (container("db", "restarting", "Restarting (1) 2 seconds ago"), "degraded"),
        (container("db", "exited", "Exited (1) 2 seconds ago"), "degraded"),
        (container("db", "exited", "Exited (0) 2 seconds ago"), "degraded"),
        (container("db", "exited", "Exited (0) 2 seconds ago", once="true"), "running"),
        (container("db", "exited", "Exited (137) 2 seconds ago", once="true"), "degraded"),
        (container("db", "paused", "Up 2 minutes (Paused)"), "degraded"),
        (container("db", "dead", "Dead"), "degraded"),
        (None, "degraded"),
    ],
)
def test_a_workload_is_as_well_as_its_worst_container(other, condition):
    (found,) = observed([UP, other] if other else [UP])
    assert found.condition == condition
    assert found.digest == UP.labels[DIGEST]
    if other is None:
        assert "db: missing" in found.detail


def test_mixed_digests_are_no_digest():
    (found,) = observed([UP, container("db", "running", "Up", digest="sha256:" + "1" * 64)])
    assert found.digest is None


def test_workloads_are_told_apart_and_sorted():
    assert [
        found.key.deployment_id for found in observed([container("web", "running", "Up", key=key) for key in "cab"])
    ] == ["a", "b", "c"]


def test_values_in_messages_are_replaced_by_their_names():
    assert redacted("bad port: hunter22, on", {"PORT": "hunter22", "FLAG": "on"}) == "bad port: <PORT>, on"


@pytest.mark.parametrize("output", ["", "[]", "null", '{"services": {}}', '{"services": []}', "{"])
def test_a_compose_file_without_services_is_refused(output):
    with pytest.raises(ComposeInvalid, match="no services"):
        read_model(output, "hmi")


def test_a_value_is_hidden_whole_before_lines_are_cut():
    long, lines = "k" * 400, "-----BEGIN-----\nsecret\n-----END-----"
    said = Finished(1, "", f"bad: {long}\nbad: {lines}\n").last_lines({"TOKEN": long, "PEM": lines})
    assert said == ["bad: <TOKEN>", "bad: <PEM>"]


def test_the_number_of_a_port_is_shown_and_the_same_number_elsewhere_is_not():
    said = "Bind for 0.0.0.0:8080 failed; the PIN 8080 is wrong; 18080"
    assert redacted(said, {"PORT": "8080"}) == "Bind for 0.0.0.0:8080 failed; the PIN <PORT> is wrong; 18080"
    assert redacted("true", {"DEBUG": "true"}) == "true"


@pytest.mark.parametrize(
    ("ends", "says"),
    [("kill -9 $$", "signal 9 ended it: is there enough memory?"), ("exit 255", "it ended with status 255")],
    ids=["itself", "its plugin"],
)
def test_a_client_that_the_kernel_kills_says_nothing_about_the_update(tmp_path, ends, says):
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n{ends}\n")
    client.chmod(0o755)
    engine = ComposeEngine((str(client), "compose"), {"PATH": os.environ["PATH"]})
    with pytest.raises(EngineUnavailable, match="was ended") as caught:
        engine.compose("up", parameters={}, seconds=10)
    assert caught.value.why == (says,)


def test_a_client_that_fails_without_a_word_failed():
    assert Finished(1, "", "").last_lines() == ["it ended with status 1"]
    assert Finished(0, "", "").last_lines() == []


class LosableEngine(ComposeEngine):
    """Does what it is asked, but `failing` commands fail, and then it was restarted, is gone, or is well.

    One that "lives on" cuts them off once. One that "ends all" was restarted after it did what it was asked.
    """

    def __init__(self, then):
        super().__init__(("docker", "compose"), {})
        self.then, self.failing, self.run, self.found, self.done = then, set(), 0, [], []

    def _run(self, arguments, environment, *_how):
        self.done.append(arguments)
        if self.failing.intersection(arguments) and environment.get("GREETING") != "hello":
            if self.then in ("lives on", "ends all"):
                self.failing = set()
                self.run += self.then == "ends all"
                return Finished(self.then == "lives on", "", "unexpected EOF")
            self.run += self.then == "restarted"
            self.failing = {"docker"} if self.then == "gone" else self.failing
            return Finished(1, "", "unexpected EOF")
        if "config" in arguments:
            return Finished(0, json.dumps({"services": {"web": {"image": "web:1"}}}), "")
        return Finished(0, f"{self.run}\n" if "network" in arguments else "", "")

    def containers(self, *_label):
        self.query("ps")
        return self.found


def updated(tmp_path, then):
    """Return an engine, its applier with a workload that runs, and two updates of it."""
    engine = LosableEngine(then)
    artifacts = create_artifact_cache(ApplierContext("press-07", tmp_path, {}), Settings("compose", {}))
    applier = ComposeApplier("press-07", tmp_path, engine, artifacts)
    artifact = artifact_of(compose_archive("services: {web: {image: web:1}}"), tmp_path)
    identity = "0" * 8 + "-1111-5111-8111-111111111111"
    first, *others = (
        workload(artifact, {"GREETING": text}, deployment_id=identity, wait=False) for text in ("hello", "2nd", "3rd")
    )
    applier.install(first)
    engine.found = [Container("0" * 64, "running", "Up 2 minutes", labels_of(first))]
    return engine, applier, *others


def labels_of(work):
    key = work.key
    own = {DEVICE: "press-07", DEPLOYMENT: key.deployment_id, COMPONENT: "hmi", DIGEST: work.digest, ONCE: "true"}
    return {**own, PROJECT: project_name(key)}


@pytest.mark.parametrize(
    ("then", "kind", "words"),
    [
        ("restarted", EngineUnavailable, "was restarted"),
        ("gone", EngineUnavailable, "does not answer"),
        ("well", InstallFailed, "does not run as asked for"),
    ],
)
def test_an_engine_that_is_lost_during_an_update_is_not_the_fault_of_the_update(
    tmp_path, monkeypatch, then, kind, words
):
    monkeypatch.setattr(compose_running, "_SETTLE_SECONDS", 0.0)
    engine, applier, second, third = updated(tmp_path, then)
    engine.failing = {"up"}
    with pytest.raises(kind, match=words) as caught:
        applier.install(second)
    assert caught.value.reinstated == (then == "well")

    engine.failing = {"image", "pull"}
    with pytest.raises(ArtifactUnavailable if then == "well" else EngineUnavailable):
        applier.prepare(third)


def test_a_client_that_was_cut_off_by_an_engine_whose_containers_live_on_asks_again(tmp_path):
    engine, applier, second, _ = updated(tmp_path, "lives on")
    engine.failing = {"up"}
    applier.install(second)
    assert engine.failing == set()


def test_what_an_engine_ended_while_it_was_installed_is_not_taken_for_done(tmp_path):
    engine, applier, second, _ = updated(tmp_path, "ends all")
    engine.failing = {"up"}
    with pytest.raises(EngineUnavailable, match="was restarted"):
        applier.install(second)
    engine.found = [Container("1" * 64, "exited", "Exited (0) 2 seconds ago", labels_of(second))]
    engine.done.clear()
    applier.install(second)
    assert any("up" in arguments for arguments in engine.done)
    engine.done.clear()
    applier.install(second)
    assert not any("up" in arguments for arguments in engine.done)


@pytest.mark.parametrize(("seconds", "then", "problem"), [(20, "healthy", []), (2, "starting", ["it did not become"])])
def test_a_container_whose_health_is_no_longer_checked_is_restarted_once(tmp_path, monkeypatch, seconds, then, problem):
    monkeypatch.setattr(compose_running, "_LATE_SECONDS", -0.1)
    _, _, second, _ = updated(tmp_path, "well")
    restarted = []

    class ForgetfulEngine(LosableEngine):
        def histories(self, containers):
            health = then if restarted else "starting"
            return {each.identity: History(0, health, "10:00;", check_seconds=0.5) for each in containers}

        def client(self, *arguments, seconds):
            if arguments[0] == "restart":
                restarted.append(arguments[1])
            return super().client(*arguments, seconds=seconds)

    engine = ForgetfulEngine("well")
    engine.found = [Container("1" * 64, "running", "Up 1 minute", labels_of(second))]
    project = RunningProject(engine, "press-07", second.key, tmp_path)
    record = RevisionRecord(second.digest, second.digest, "compose.yaml", {}, 40)
    said = project.start(Revision(tmp_path, record), time.monotonic() + seconds, 1, engine.found)
    assert [line[:17] for line in said[:1]] == problem
    assert restarted == ["1" * 64]


def test_a_workload_that_wants_years_to_stop_is_removed_all_the_same(tmp_path):
    _, _, second, _ = updated(tmp_path, "well")

    class PatientEngine(LosableEngine):
        def _run(self, arguments, *_how):
            self.done.append(arguments)
            return Finished(0 if "--timeout" in arguments else None, "", "")

    engine = PatientEngine("well")
    record = RevisionRecord(second.digest, second.digest, "compose.yaml", {}, 40)
    assert RunningProject(engine, "press-07", second.key, tmp_path).down(Revision(tmp_path, record), 1) == []
    assert ["--file" in each for each in engine.done] == [True, False]


def test_a_secret_is_a_variable_without_the_line_end_at_its_end():
    assert [secret_variable("X", each) for each in (b"pass", b"pass\n", b"pass\r\n", b"two\nlines\n\n")] == [
        "pass",
        "pass",
        "pass",
        "two\nlines\n",
    ]
    for value in (b"a\0b", b"\xff\xfe"):
        with pytest.raises(WorkloadUnsupported, match="the secret for X is not text"):
            secret_variable("X", value)


def test_a_secret_in_the_name_of_an_image_is_refused_without_its_value():
    text = '{"services": {"web": {"image": "registry.example.com/hunter22/app"}}}'
    with pytest.raises(ComposeInvalid, match="has the secret X in the name of an image") as caught:
        read_model(text, "web").check_images("web", {"X": "hunter22"})
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("spell", [str, repr, lambda each: each.encode().hex(), urllib.parse.quote, json.dumps])
def test_a_value_is_hidden_however_a_program_spells_it(spell):
    value = 'p\u00e4ss"w\u00f6rd & more'
    text = redacted(f"failed: {spell(value)}", {"PASSWORD": value})
    assert "failed: " in text
    assert "<PASSWORD>" in text
    assert "more" not in text


@pytest.mark.parametrize(
    "spell",
    [
        lambda each: json.dumps(each).replace("&", "\\u0026").replace("<", "\\u003c"),  # as Go
        lambda each: each.replace("\u00f6", "\\xc3\\xb6"),  # as Go's durations
        lambda each: each.replace("$", "$$"),  # as Compose prints its files
        shlex.quote,
        lambda each: each.replace("'", "'\\''"),  # as sh -x
        lambda each: base64.b64encode(f"a:{each}".encode()).decode(),  # as HTTP's basic authentication
        lambda each: base64.b64encode(f"ab:{each}/xyz".encode()).decode(),
        lambda each: base64.urlsafe_b64encode(f"{each}?".encode()).decode(),
    ],
)
def test_a_value_is_hidden_as_the_programs_around_an_engine_spell_it(spell):
    value = "p&<ss$x'w\u00f6rd-and-more"
    text = redacted(f"failed: {spell(value)}", {"PASSWORD": value})
    assert "<PASSWORD>" in text
    assert len(text) < len("failed: <PASSWORD>") + 12  # what stands around it


@pytest.mark.parametrize("said", ["pin:4711", '{"pin":4711}', "NDcxMQ==", "pin=4711;"])
def test_a_secret_is_hidden_also_where_it_looks_like_a_port(said):
    assert "<PIN>" in redacted(said, {"PIN": Secret("4711")})
    assert redacted("hidden: true", {"FLAG": Secret("true")}) == "hidden: <FLAG>"


def test_of_values_that_overlap_or_are_in_a_name_nothing_stays():
    assert redacted("abcdefgh1234ijklmnop!", {"A": "abcdefgh1234", "B": "1234ijklmnop"}) == "<A>!"
    assert redacted("abcdefgh abcdefghijkl", {"A": "abcdefgh", "B": "abcdefghijkl"}) == "<A> <B>"
    assert redacted("longsecretvalue", {"DB_PASSWORD": "longsecretvalue", "B": "PASS"}) == "<DB_PASSWORD>"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it is left
def test_a_program_that_cannot_be_ended_is_left_and_not_waited_for(monkeypatch):
    def refused(_group, _number):  # as for a program that became another user
        raise PermissionError

    monkeypatch.setattr("os.killpg", refused)
    monkeypatch.setattr(programs, "_PATIENCE_SECONDS", 0.01)
    done = programs.run_program(["sh", "-c", "echo $$; exec sleep 60"], {"PATH": os.environ["PATH"]}, seconds=0.3)
    assert done.status is None
    os.kill(int(done.output), signal.SIGKILL)


def test_a_program_ends_when_the_agent_is_asked_to_stop(tmp_path):
    told = tmp_path / "told"
    words = ["sh", "-c", f"trap 'echo end > {told}; exit 1' TERM; echo begin > {told}; while :; do sleep 0.05; done"]
    with pytest.raises(StepInterrupted):
        programs.run_program(words, {"PATH": os.environ["PATH"]}, seconds=60, interrupted=told.exists)
    assert told.read_text() == "end\n"


def test_a_revision_that_is_not_open_has_a_word_for_each_secret(tmp_path):
    record = RevisionRecord("sha256:a", "sha256:b", "c", {"A": "1"}, 60, {"B": WantedSecret("d", "b")})  # type: ignore[arg-type]
    assert Revision(tmp_path, record).environment == {"A": "1", "B": "not-open"}
    assert Revision(tmp_path, record, {"B": "value"}).environment == {"A": "1", "B": "value"}
    record.write(tmp_path)
    assert "value" not in "".join(path.read_text() for path in tmp_path.iterdir())

"""HANDOVER-1 to HANDOVER-5: what other controllers get, and what is made of what they say."""

import re
from dataclasses import replace
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from workload_making import workload

from margo_gitops.appliers.applier import ApplierContext, WorkloadKey
from margo_gitops.appliers.files import create
from margo_gitops.appliers.handover import argocd, flux, k3s
from margo_gitops.appliers.handover.forms import Target, object_name
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION, Artifact
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.errors import ApplierUnusable, WorkloadUnsupported

CONTROLLERS = pytest.mark.parametrize("controller", [flux, argocd, k3s], ids=["flux", "argocd", "k3s"])
ID = "9f0c8a1e-56c5-4f0e-9d5a-0c6f6c3f0a11"
VALUES = {"image.tag": "1.10", "replicas": 3, "ratio": 0.5, "debug": False, "hosts": ("a", "b"), "empty": ""}
NESTED = {"image": {"tag": "1.10"}, "replicas": 3, "ratio": 0.5, "debug": False, "hosts": ["a", "b"], "empty": ""}
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,198}[a-z0-9])?", fullmatch=True)
SCALARS = st.text() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()


def target(controller, *, has_server=False):
    return Target("press-07", controller.NAMESPACE, has_server)


def chart(values=VALUES, **more):
    return workload(more.pop("artifact", None), values, deployment_id=ID, profile="helm", **more)


def values_in(documents):
    spec = documents[-1]["spec"]
    if "valuesContent" in spec:
        return yaml.safe_load(spec["valuesContent"])
    return spec["values"] if "values" in spec else spec["source"]["helm"]["valuesObject"]


@given(st.uuids(), NAMES, st.uuids(), NAMES)
def test_names_are_valid_and_differ(deployment, component, other, another):
    """HANDOVER-1, HANDOVER-2."""
    keys = {WorkloadKey(str(deployment), component), WorkloadKey(str(other), another)}
    names = {object_name(key) for key in keys}
    assert len(names) == len(keys)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name) for name in names)


def test_long_names_that_begin_alike_differ():
    """HANDOVER-2."""
    keys = [WorkloadKey(str(UUID(int=1)), "x" * 100 + end) for end in "ab"]
    assert len({object_name(key) for key in keys}) == 2


@CONTROLLERS
@given(values=st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3).map(tuple), max_size=4))
def test_values_keep_their_types(controller, values):
    """HANDOVER-4, and a text of digits stays a text."""
    built = controller.build(chart(values), target(controller))
    assert built == controller.build(chart(values), target(controller))
    expected = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    found = values_in(built)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()
    }


@CONTROLLERS
def test_a_chart(controller):
    documents = controller.build(chart(), target(controller))
    assert values_in(documents) == NESTED
    assert {each["metadata"]["namespace"] for each in documents} == {controller.NAMESPACE}
    text = yaml.safe_dump_all(documents)
    assert "oci://registry.example.com/hmi" in text
    assert "margo" in text
    assert sorted(documents[-1]["metadata"]["annotations"]) == [
        "org.margo-gitops.component",
        "org.margo-gitops.device",
        "org.margo-gitops.digest",
    ]


@CONTROLLERS
def test_a_component_keeps_its_name(controller):
    """HANDOVER-3."""
    names = {
        controller.build(chart(values), target(controller))[-1]["metadata"]["name"] for values in (VALUES, {"a": 1})
    }
    assert len(names) == 1


@CONTROLLERS
def test_what_cannot_be_handed_over_is_refused(controller):
    compose, other = (workload(None, deployment_id=ID, profile=kind) for kind in ("compose", "custom"))
    nowhere = replace(chart().component.properties, repository=None, package_location="https://example.com/a.tar.gz")
    homeless = replace(chart(), component=replace(chart().component, properties=nowhere))
    for wrong in (compose, other, homeless, chart({"a": 1, "a.b": 2})):
        with pytest.raises(WorkloadUnsupported, match="cannot be handed over"):
            controller.build(wrong, target(controller))


@pytest.mark.parametrize("controller", [flux, argocd], ids=["flux", "argocd"])
def test_manifests_have_no_place_for_parameters(controller):
    with pytest.raises(WorkloadUnsupported) as refused:
        controller.build(replace(manifests(), values={"COLOUR": "red"}), target(controller))
    assert "COLOUR" in refused.value.why[0]


def test_k3s_takes_no_manifests():
    with pytest.raises(WorkloadUnsupported):
        k3s.build(manifests(), target(k3s))


def manifests(artifact=None):
    item = workload(artifact, deployment_id=ID, profile="custom")
    return replace(item, component=replace(item.component, extensions={OWN_EXTENSION: {"format": "kubernetes"}}))


class TestFlux:
    """Sources, and what Ready means."""

    def test_manifests_are_pruned_and_waited_for(self):
        source, reader = flux.build(manifests(), target(flux))
        assert source["kind"] == "OCIRepository"
        assert source["spec"]["ref"] == {"tag": "1.0.0"}
        assert reader["kind"] == "Kustomization"
        assert (reader["spec"]["prune"], reader["spec"]["wait"], reader["spec"]["timeout"]) == (True, True, "40s")
        assert reader["spec"]["sourceRef"] == {"kind": "OCIRepository", "name": source["metadata"]["name"]}

    def test_another_content_is_another_source(self):
        """HANDOVER-5: a reader cannot be ready for what it does not name."""
        first, second = (
            flux.build(manifests(Artifact("hmi", "https://example.com/a.tar.gz", sha256(content))), server)[0]
            for server in [target(flux, has_server=True)]
            for content in (b"1", b"2")
        )
        assert first["metadata"]["name"] != second["metadata"]["name"]
        assert first["status"]["artifact"]["digest"] == sha256(b"1")

    def test_flux_gets_no_files_of_the_device(self):
        with pytest.raises(WorkloadUnsupported):
            flux.build(manifests(Artifact("hmi", "file:///a", sha256(b""))), target(flux, has_server=True))

    @pytest.mark.parametrize(
        ("ready", "generation", "condition"),
        [
            ({"status": "True"}, 2, "running"),
            ({"status": "True"}, 3, "starting"),
            ({"status": "Unknown", "reason": "Progressing"}, 2, "starting"),
            ({"status": "False", "reason": "ArtifactFailed"}, 2, "starting"),
            ({"status": "False", "reason": "HealthCheckFailed"}, 2, "degraded"),
            ({"status": "False", "reason": "HealthCheckFailed"}, 3, "starting"),
        ],
        ids=["ready", "ready-before", "progressing", "no-source-yet", "unhealthy", "unhealthy-before"],
    )
    def test_its_status(self, ready, generation, condition):
        """HANDOVER-5."""
        found = {
            "metadata": {"generation": generation},
            "status": {"conditions": [{"type": "Ready", "observedGeneration": 2, "message": "a\nb", **ready}]},
        }
        assert flux.judge(found).condition == condition
        assert flux.judge(found).is_final == (condition == "degraded")

    def test_a_stalled_one_has_failed(self):
        conditions = [{"type": "Ready", "status": "False", "reason": "X", "message": "no"}]
        conditions.append({"type": "Stalled", "status": "True"})
        answer = flux.judge(
            {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": conditions}}
        )
        assert (answer.detail, answer.is_final) == ("no", True)


SOURCE = {"repoURL": "oci://registry.example.com/hmi"}


@pytest.mark.parametrize(
    ("sync", "health", "compared", "more", "condition"),
    [
        ("Synced", "Healthy", SOURCE, {}, "running"),
        ("Synced", "Healthy", {"repoURL": "oci://old"}, {}, "starting"),
        ("OutOfSync", "Healthy", SOURCE, {}, "starting"),
        ("Synced", "Progressing", SOURCE, {}, "starting"),
        ("Synced", "Degraded", SOURCE, {}, "degraded"),
        ("OutOfSync", "Missing", SOURCE, {"conditions": [{"type": "InvalidSpecError", "message": "no"}]}, "degraded"),
        (
            "OutOfSync",
            "Missing",
            SOURCE,
            {"operationState": {"phase": "Failed", "message": "no", "syncResult": {"source": SOURCE}}},
            "degraded",
        ),
        (
            "OutOfSync",
            "Healthy",
            SOURCE,
            {"operationState": {"phase": "Failed", "syncResult": {"source": {"repoURL": "oci://old"}}}},
            "starting",
        ),
    ],
    ids=["healthy", "before", "out-of-sync", "progressing", "degraded", "invalid", "failed", "failed-before"],
)
def test_what_argo_cd_says(sync, health, compared, more, condition):
    """HANDOVER-5."""
    status = {"sync": {"status": sync, "comparedTo": {"source": compared}}, "health": {"status": health}, **more}
    answer = argocd.judge({"spec": {"source": SOURCE}, "status": status})
    assert answer.condition == condition
    assert answer.is_final == (condition == "degraded")


@pytest.mark.parametrize(
    ("uid", "job", "chart", "condition"),
    [
        ("new", "Complete", "", "running"),
        ("old", "Complete", "", "starting"),
        ("new", "", "", "starting"),
        ("new", "Failed", "", "degraded"),
        ("new", "Complete", "Failed", "degraded"),
    ],
    ids=["complete", "before", "runs", "failed", "aborted"],
)
def test_what_k3s_says(uid, job, chart, condition):
    """HANDOVER-5."""
    found = {"metadata": {"annotations": {k3s.JOB_BEFORE: "old"}}, "status": {"conditions": conditions(chart)}}
    answer = k3s.judge(found, {"metadata": {"uid": uid, "name": "j"}, "status": {"conditions": conditions(job)}})
    assert answer.condition == condition
    assert k3s.judge(found).condition == "starting"


def test_a_helm_chart_notes_the_job_that_it_had():
    """HANDOVER-5: the job of the chart before says nothing of this one."""
    (wanted,) = k3s.build(chart(), target(k3s))
    old, job = k3s.build(chart({"a": 1}), target(k3s))[0], {"metadata": {"uid": "old"}}
    assert k3s.noting_job(wanted, None, None) == wanted
    changed = k3s.noting_job(wanted, old, job)
    assert changed["metadata"]["annotations"][k3s.JOB_BEFORE] == "old"
    with_defaults = {**changed, "spec": {**changed["spec"], "driver": "secret"}}
    again = k3s.noting_job(wanted, with_defaults, {"metadata": {"uid": "new"}})
    assert again == changed, "written again as it is, no other job comes"


def conditions(name):
    return [{"type": name, "status": "True", "message": "why"}] if name else []


@CONTROLLERS
def test_files_writes_its_documents(tmp_path, controller):
    """The setting `format`; a chart or a manifest that cannot be handed over is refused before anything changes."""
    name = controller.__name__.rpartition(".")[2]
    settings = {"folder": str(tmp_path / "out"), "format": name, "controllerNamespace": "plant"}
    applier = create(ApplierContext("press-07", tmp_path, settings))
    applier.prepare(chart())
    applier.install(chart())
    written = list(yaml.safe_load_all((tmp_path / "out" / ID / "hmi" / "handover.yaml").read_text()))
    assert written == controller.build(chart(), Target("press-07", "plant"))
    with pytest.raises(WorkloadUnsupported):
        applier.prepare(workload(None, deployment_id=ID))
    hidden = {"password": WantedSecret("press-07", "a")}
    with pytest.raises(WorkloadUnsupported):
        applier.prepare(replace(chart({"b": 1}), digest=sha256(b"b"), secrets=hidden))


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ApplierUnusable, match="format"):
        create(ApplierContext("press-07", tmp_path, {"folder": "/x", "format": "chef"}))

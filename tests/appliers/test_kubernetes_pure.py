"""Kubernetes without a server: readiness by kind, order, labels, and what refusals mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.appliers.kubernetes.kstatus import status_of
from margo_gitops.appliers.kubernetes.manifests import (
    SetOwner,
    SetRecord,
    apply_order,
    applyset_id,
    label_value,
    labelled,
    last_change,
    own_fields,
    parent_body,
    with_autoscalers,
    without_pods,
    without_scaled_replicas,
)
from margo_gitops.appliers.kubernetes.refusals import refusal
from margo_gitops.documents.kubernetes_objects import KubernetesObject, ObjectId
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesAgent,
    ClusterRefusesObject,
    EngineUnavailable,
    FieldConflict,
    FieldImmutable,
    ListExpired,
    ManifestInvalid,
    ObjectMissing,
)

OWNER = SetOwner("press-07", "0b5a3f0e-2f0c-4a51-9d2d-7c4f7d1d3a11", "web")
COUNTS = st.integers(0, 3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def thing(kind, version="v1", spec=None, **status):
    metadata = {"name": "a", "generation": 1}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status}


def condition(name, status="True", **more):
    return {"type": name, "status": status, **more}


@given(wanted=COUNTS, updated=COUNTS, available=COUNTS, ready=COUNTS, all_=COUNTS, seen=st.integers(0, 1))
def test_a_deployment_is_ready_exactly_when_all_its_replicas_are_the_new_ones(
    wanted, updated, available, ready, all_, seen
):
    counts = {"updatedReplicas": updated, "availableReplicas": available, "readyReplicas": ready, "replicas": all_}
    body = thing("Deployment", "apps/v1", {"replicas": wanted}, observedGeneration=seen, **counts)
    expected = seen == 1 and min(updated, available, ready) >= wanted and all_ <= wanted
    assert (status_of(body).state == "ready") == expected


@given(wanted=COUNTS, scheduled=COUNTS, updated=COUNTS, available=COUNTS, ready=COUNTS)
def test_a_daemon_set_is_ready_when_each_node_runs_the_new_one(wanted, scheduled, updated, available, ready):
    body = thing(
        "DaemonSet",
        "apps/v1",
        observedGeneration=1,
        desiredNumberScheduled=wanted,
        currentNumberScheduled=scheduled,
        updatedNumberScheduled=updated,
        numberAvailable=available,
        numberReady=ready,
    )
    assert (status_of(body).state == "ready") == (min(scheduled, updated, available, ready) >= wanted)


@given(wanted=COUNTS, ready=COUNTS, updated=COUNTS, partition=COUNTS, same=st.booleans())
def test_a_stateful_set_is_ready_when_the_replicas_above_its_partition_are_new(wanted, ready, updated, partition, same):
    body = thing(
        "StatefulSet",
        "apps/v1",
        {"replicas": wanted, "updateStrategy": {"rollingUpdate": {"partition": partition}}},
        observedGeneration=1,
        readyReplicas=ready,
        replicas=ready,
        updatedReplicas=updated,
        currentRevision="a",
        updateRevision="a" if same else "b",
    )
    is_new = updated >= wanted - partition if partition else same
    assert (status_of(body).state == "ready") == (ready == wanted and is_new)


CRD = "apiextensions.k8s.io/v1"
POD = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "again in 10 s"}}}


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (thing("ConfigMap"), "ready"),
        (thing("Job", "batch/v1"), "progressing"),
        (thing("Job", "batch/v1", startTime="now"), "ready"),
        (thing("Job", "batch/v1", {"suspend": True}), "ready"),
        (thing("Job", "batch/v1", startTime="now", conditions=[condition("Failed")]), "failed"),
        (thing("PersistentVolumeClaim", phase="Pending"), "progressing"),
        (thing("PersistentVolumeClaim", phase="Bound"), "ready"),
        (thing("CustomResourceDefinition", CRD), "progressing"),
        (thing("CustomResourceDefinition", CRD, conditions=[condition("Established")]), "ready"),
        (thing("CustomResourceDefinition", CRD, conditions=[condition("NamesAccepted", "False")]), "failed"),
        (thing("Service", spec={"type": "LoadBalancer"}), "progressing"),
        (thing("Service", spec={"type": "ClusterIP"}), "ready"),
        (thing("Pod", phase="Pending"), "progressing"),
        (thing("Pod", phase="Succeeded"), "ready"),
        (thing("Pod", phase="Failed"), "failed"),
        (thing("Pod", phase="Running", conditions=[condition("Ready")]), "ready"),
        (thing("Pod", phase="Running", containerStatuses=[POD]), "failed"),
        (thing("Namespace", phase="Terminating"), "progressing"),
        (thing("Deployment", "apps/v1", observedGeneration=0), "progressing"),
        (
            thing(
                "Deployment",
                "apps/v1",
                observedGeneration=1,
                conditions=[condition("Progressing", "False", reason="ProgressDeadlineExceeded")],
            ),
            "failed",
        ),
        (thing("Line", "example.com/v1", observedGeneration=0), "progressing"),
        (thing("Line", "example.com/v1"), "ready"),
        (thing("Line", "example.com/v1", conditions=[condition("Ready", "False", message="no plc")]), "progressing"),
        (thing("Line", "example.com/v1", conditions=[condition("Ready"), condition("Stalled")]), "failed"),
        (thing("Line", "example.com/v1", conditions=[condition("Reconciling")]), "progressing"),
    ],
    ids=lambda value: f"{value['kind']}-{value['spec']}{value['status']}"[:90] if isinstance(value, dict) else value,
)
def test_readiness_is_that_of_kstatus(body, state):
    found = status_of(body)
    assert found.state == state
    assert bool(found.reason) == (state != "ready")
    deleted = {**body, "metadata": {**body["metadata"], "deletionTimestamp": "now"}}
    assert status_of(deleted).state == "progressing"


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind"]), JSON))
def test_no_answer_of_a_server_breaks_it(body):
    assert status_of(body).state in ("ready", "progressing", "failed")


def test_the_id_of_a_set_is_that_of_kep_3659():
    # printf 'my-set.default.Secret.' | openssl dgst -sha256 -binary | basenc --base64url | tr -d =
    assert applyset_id("my-set", "default", "Secret", "") == "applyset-kdySOVBWs584aaOTmku9Ul1xDuN7LXBjs-R96jQcisk-v1"


@given(st.text(max_size=200), st.text(max_size=200))
def test_labels_are_valid_and_tell_texts_apart(first, second):
    for text in (first, second):
        assert len(label_value(text)) <= 63
        assert label_value(label_value(first + "/")) != label_value(first + "/")  # no other id has that label
        assert set(label_value(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert (label_value(first) == label_value(second)) == (first == second)


GROUPS = st.sampled_from(["", "apps", "example.com"])
TEXTS = st.text("abcdefghij-.", min_size=1, max_size=9)
IDS = st.builds(ObjectId, GROUPS, TEXTS, TEXTS | st.just(""), TEXTS)


@given(st.dictionaries(IDS, st.sampled_from(["", "0123456789abcdef"]), max_size=6), st.sampled_from(["", "sha256:00"]))
def test_a_parent_says_what_is_in_its_set(members, digest):
    body = parent_body(OWNER, "home", members, tool="margo-gitops/v1.2.3", digest=digest)
    assert SetRecord.of(body) == SetRecord(OWNER, digest, members)
    told = body["metadata"]["annotations"]
    assert told["applyset.kubernetes.io/contains-group-kinds"] == ",".join(sorted({m.group_kind for m in members}))


@given(JSON)
def test_a_damaged_parent_names_nothing(value):
    assert SetRecord.of({"data": {"members": value}}).members == {}


def test_namespaces_and_crds_come_first_and_what_uses_them_last():
    kinds = ["Line", "Ingress", "Deployment", "Service", "Secret", "CustomResourceDefinition", "Namespace"]
    made = [KubernetesObject({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}}) for kind in kinds]
    order = ["Namespace", "CustomResourceDefinition", "Secret", "Service", "Deployment", "Ingress", "Line"]
    assert [each.kind for each in sorted(made, key=apply_order)] == order


def test_pods_get_the_labels_too():
    body = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "a"}, "spec": {"schedule": "* * * * *"}}
    made = labelled(KubernetesObject(body), OWNER, "set").body
    assert made["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] == OWNER.labels
    assert made["metadata"]["labels"] == {**OWNER.labels, "applyset.kubernetes.io/part-of": "set"}
    assert body["spec"] == {"schedule": "* * * * *"}


def test_an_autoscaler_decides_on_replicas():
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "a"}}
    found = without_scaled_replicas(
        KubernetesObject({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        for kind, name, spec in (
            ("HorizontalPodAutoscaler", "x", target),
            ("Deployment", "a", {"replicas": 2}),
            ("Deployment", "b", {"replicas": 2}),
        )
    )
    assert [each.body["spec"] for each in found] == [target, {}, {"replicas": 2}]


def test_a_field_that_somebody_takes_is_noticed():
    entry = {"manager": "margo-gitops", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    other = {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}}
    ours = own_fields({"metadata": {"managedFields": [entry]}})
    assert own_fields({"metadata": {"managedFields": [other, entry]}}) == ours
    assert own_fields({"metadata": {"managedFields": [{**entry, "fieldsV1": {"f:spec": {}}}]}}) != ours


def test_what_others_changed_is_named_without_values():
    inside = {"f:image": {}, ".": {}, "f:args": {'v:"s3cr3t"': {}}}
    fields = {"f:spec": {"f:replicas": {}, "f:containers": {'k:{"name":"web"}': inside}}}
    deep = {"f:a": {}}
    for _ in range(500):
        deep = {"f:a": deep}
    entries = [
        {"manager": "kubectl-edit", "time": "2026-11-30T18:00:00Z", "fieldsV1": fields},
        {"manager": "tuner", "time": "2026-11-30T17:00:00Z", "fieldsV1": {"f:data": {}}},
        {"manager": "controller", "time": "2026-11-30T19:00:00Z", "subresource": "status", "fieldsV1": {}},
    ]
    who, paths = last_change({"metadata": {"managedFields": entries}})
    assert who == "kubectl-edit"
    assert paths == ["spec.containers[name=web].args[…]", "spec.containers[name=web].image", "spec.replicas"]
    assert len(last_change({"metadata": {"managedFields": [{"manager": "x", "fieldsV1": deep}]}})[1]) == 1
    assert last_change({}) == ("", [])


def said(message, *causes, **details):
    return {"kind": "Status", "message": message, "details": {**details, "causes": list(causes)}}


CONFLICT = {
    "reason": "FieldManagerConflict",
    "message": 'conflict with "kubectl-edit" using apps/v1',
    "field": ".spec.replicas",
}
TYPED = (
    "failed to create typed patch object (a/b; /v1, Kind=Secret): .data.a: expected string, got &value.value{Value:7}"
)
DENIED = 'admission webhook "guard.example.com" denied the request: not in this plant'


@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (401, said("Unauthorized"), ClusterRefusesAgent, "renew the token"),
        (403, said('pods is forbidden: User "x" cannot list resource "pods"'), ClusterRefusesAgent, "with a Role"),
        (403, said('"a" is forbidden: exceeded quota: small'), ClusterRefusesObject, "raise the quota"),
        (403, said("a is being terminated"), ClusterRefusesObject, "wait until the namespace is gone"),
        (400, said('admission webhook "x" denied the request: no'), ClusterRefusesObject, "who runs the webhook"),
        (404, said("not found"), ObjectMissing, "is not there"),
        (409, said("Apply failed", CONFLICT), FieldConflict, "spec.replicas: kubectl-edit"),
        (409, said("the object has been modified"), EngineUnavailable, "at the same time"),
        (410, said("too old resource version"), ListExpired, "read again"),
        (422, said("spec.port: Invalid value: 99999"), ManifestInvalid, "99999"),
        (422, said("spec.template: Invalid value: field is immutable"), FieldImmutable, "immutable"),
        (429, said("too many requests"), EngineUnavailable, "cannot answer now (429)"),
        (500, said("failed calling webhook"), EngineUnavailable, "start the webhook"),
        (500, said("etcdserver: timeout"), EngineUnavailable, "cannot answer now (500)"),
        (500, said(TYPED), ManifestInvalid, "got another type"),
        (503, None, EngineUnavailable, "the server answers 503 to GET /x"),
        (302, None, EngineUnavailable, "something other than the API server"),
        (404, {"message": "404 page not found"}, ObjectMissing, "is not there"),
        (404, {"message": "<html>"}, EngineUnavailable, "something other than the API server"),
        (403, {"message": "<html>"}, EngineUnavailable, "check the address in the kubeconfig"),
        (400, {"message": "Client sent an HTTP request"}, EngineUnavailable, "Client sent an HTTP request"),
        (422, said("spec: pod updates may not change fields other than"), FieldImmutable, "another name"),
        *((status, said(DENIED), ClusterRefusesObject, "who runs the webhook") for status in (401, 404, 409, 410, 429)),
        *((status, said(DENIED), ClusterRefusesObject, "who runs the webhook") for status in (500, 503)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_each_refusal_says_what_to_do(status, answer, error, text):
    found = refusal(status, answer, "GET /x")
    assert type(found) is error
    assert text in str(found)


@given(st.integers(300, 599), JSON)
def test_any_answer_is_a_refusal(status, answer):
    assert isinstance(refusal(status, answer, "GET /x"), ApplyError)


def made(kind, version, **spec):
    return KubernetesObject({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec})


def test_what_is_stopped_keeps_no_pods_and_all_else_of_it():
    pods = {"template": {"spec": {"nodeSelector": {"zone": "a"}, "containers": []}}}
    scaled, cron = made("StatefulSet", "apps/v1", replicas=3, **pods), made("CronJob", "batch/v1", schedule="0 1 * * *")
    daemon, scaler = made("DaemonSet", "apps/v1", **pods), made("HorizontalPodAutoscaler", "autoscaling/v2")
    every = [scaled, cron, daemon, scaler, made("Job", "batch/v1"), made("Deployment", "example.com/v1", replicas=3)]
    stopped = without_pods(every)
    assert [each.body["spec"] for each in stopped] == [
        {"replicas": 0, **pods},
        {"schedule": "0 1 * * *", "suspend": True},
        {"template": {"spec": {"nodeSelector": {"org.margo-gitops.stopped": "true"}, "containers": []}}},
    ]
    assert with_autoscalers(every, {each.identity for each in stopped}) == [scaled, cron, daemon, scaler]


def test_the_sets_of_two_sources_never_meet():
    chart = SetOwner(OWNER.device, OWNER.deployment_id, OWNER.component, "helm")
    body = parent_body(chart, "margo-gitops", {}, tool="t", digest="d")
    assert SetRecord.of(body).owner == chart
    assert chart.set_id("margo-gitops") != OWNER.set_id("margo-gitops")

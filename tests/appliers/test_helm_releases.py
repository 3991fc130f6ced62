"""Names, labels and manifests of releases, without a cluster: RELEASE-1 to RELEASE-3."""

import base64
import gzip
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.appliers.applier import RunningImage, WorkloadKey
from margo_gitops.appliers.contract_kit import make_workload
from margo_gitops.appliers.helm import objects, program
from margo_gitops.appliers.helm.objects import ReleaseObjects, changed_text
from margo_gitops.appliers.helm.program import HelmProgram
from margo_gitops.appliers.helm.releases import ReleaseStore, last_good, manifest_objects, release_labels, release_name
from margo_gitops.appliers.kubernetes.client import Resource
from margo_gitops.documents.components import COMPONENT_NAME_PATTERN
from margo_gitops.documents.kubernetes_objects import field_differences
from margo_gitops.errors import ClusterRefusesAgent, EngineUnavailable, ManifestInvalid, WorkloadUnsupported

COMPONENTS = st.from_regex(COMPONENT_NAME_PATTERN, fullmatch=True).filter(lambda name: len(name) <= 63)
KEYS = st.builds(WorkloadKey, st.uuids().map(str), COMPONENTS)
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


@given(KEYS, KEYS)
def test_no_two_workloads_have_one_release(one, other):
    """RELEASE-1: helm takes the name, and it is another one for each workload."""
    for key in (one, other):
        assert len(release_name(key)) <= 53
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", release_name(key))
    assert (release_name(one) == release_name(other)) == (one == other)


class Cluster:
    """Answers for an API server that has Secrets."""

    home = "margo-gitops"

    def __init__(self, *secrets, allowed=("",)):
        self.secrets, self.allowed, self.home = secrets, allowed, "home"

    def list_objects(self, _resource, namespace="", *, selector="", metadata_only=False):
        assert metadata_only
        if namespace not in self.allowed:
            raise ClusterRefusesAgent("no")
        wanted = dict(each.split("=") for each in selector.split(","))
        return [each for each in self.secrets if wanted.items() <= each["metadata"]["labels"].items()]

    def ask(self, path):
        return next(each for each in self.secrets if path.endswith("/" + each["metadata"]["name"]))


def secret(key, number=1, status="deployed", device="press-07", manifest=""):
    labels = release_labels(make_workload(key, profile_type="helm"), device)
    content = base64.b64encode(gzip.compress(json.dumps({"manifest": manifest, "config": {"pin": "1"}}).encode()))
    name = f"sh.helm.release.v1.{release_name(key)}.v{number}"
    helms = {"owner": "helm", "name": release_name(key), "version": str(number), "status": status}
    metadata = {"name": name, "namespace": "line", "resourceVersion": "7", "labels": {**labels, **helms}}
    return {"metadata": metadata, "data": {"release": base64.b64encode(content).decode()}}


@given(KEYS, st.text(st.sampled_from("ab/~.-_"), min_size=1, max_size=90))
def test_labels_bring_back_what_they_were_made_of(key, device):
    """RELEASE-2: whatever the device is called."""
    workload = make_workload(key, profile_type="helm")
    assert all(LABEL.fullmatch(value) for value in release_labels(workload, device).values())
    (found,) = ReleaseStore(Cluster(secret(key, device=device)), device).latest([])
    assert (found.key, found.digest, found.is_of(device)) == (key, workload.digest, True)
    assert not found.is_of(f"{device}x")


KEY = WorkloadKey("8b0f9f1e-95d1-4f6c-9d6b-2f0d1b0f3a11", "web")


def test_the_last_revision_of_each_release_counts():
    store = ReleaseStore(Cluster(secret(KEY, 1, "superseded"), secret(KEY, 3, "failed"), secret(KEY, 2)), "press-07")
    assert [(each.number, each.status) for each in store.latest([])] == [(3, "failed")]
    history = store.history("", release_name(KEY))
    assert last_good(history).number == 2
    assert last_good(history[:1]) is None


def test_where_all_namespaces_cannot_be_listed_those_of_its_deployments_are():
    cluster = Cluster(secret(KEY), allowed=("line",))
    assert len(ReleaseStore(cluster, "press-07").latest(["line"])) == 1
    with pytest.raises(ClusterRefusesAgent):
        ReleaseStore(cluster, "press-07").latest([])


@pytest.mark.parametrize("data", ["", "!", base64.b64encode(b"eA==").decode()], ids=["empty", "not-base64", "not-json"])
def test_a_damaged_record_is_said(data):
    """RELEASE-3."""
    damaged = {**secret(KEY), "data": {"release": data}}
    store = ReleaseStore(Cluster(damaged), "press-07")
    with pytest.raises(ManifestInvalid, match="is not a release of helm"):
        store.objects(store.latest([])[0])


def test_a_name_that_no_label_holds_is_refused():
    with pytest.raises(WorkloadUnsupported, match="more than 63"):
        release_labels(make_workload(WorkloadKey(KEY.deployment_id, "a" * 64), profile_type="helm"), "press-07")


def test_what_a_person_changed_shows_no_value_that_may_be_a_secret():
    """DRIFT-4: a chart may write a secret into a variable or a ConfigMap."""
    chart, there = ({"env": {"pin": pin}, "spec": {"image": pin, "replicas": at}} for at, pin in enumerate(("a", "b")))
    assert list(map(changed_text, field_differences(there, chart))) == [
        "env.pin has another value",
        'spec.image: "b" instead of "a"',
        "spec.replicas: 1 instead of 0",
    ]
    added = field_differences({"data": {"pin": {"is": "7"}}}, {})
    assert list(map(changed_text, added)) == ["data has another value"]


AWAY = (
    "Kubernetes cluster unreachable: Get https://a: dial tcp: connect: connection refused",
    'an error on the server ("<html>") has prevented the request from succeeding',
    "the server was unable to return a response in the time allotted",
    "the server has received too many requests and has asked us to try again later",
    "another operation (install/upgrade/rollback) is in progress",
    "invalid character '<' looking for beginning of value",
)


@pytest.mark.parametrize("said", AWAY, ids=[str(each) for each in range(len(AWAY))])
def test_what_says_nothing_about_the_chart_is_tried_again(tmp_path, said):
    helm = tmp_path / "helm"
    (tmp_path / "said").write_text(said)
    helm.write_text(f"#!/bin/sh\n[ $1 = version ] && echo v4.1.0 && exit\ncat {tmp_path}/said >&2\nexit 1\n")
    helm.chmod(0o755)
    with pytest.raises(EngineUnavailable):
        HelmProgram(str(helm), tmp_path).run("upgrade", namespace="plant", seconds=5)


@pytest.mark.parametrize("killed", ["version", "show"])
def test_a_helm_that_was_killed_says_nothing_about_itself_or_the_chart(tmp_path, killed):
    helm = tmp_path / "helm"
    helm.write_text(f"#!/bin/sh\n[ $1 = {killed} ] && kill -9 $$\necho v4.1.0\n")
    helm.chmod(0o755)
    with pytest.raises(EngineUnavailable, match=f"helm {killed} was ended"):
        HelmProgram(str(helm), tmp_path).run("show", "crds", namespace="plant", seconds=5)


def test_a_dry_run_that_does_not_end_says_nothing_about_the_chart(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_SLACK_SECONDS", 0.2)
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\n[ $1 = version ] && echo v4.1.0 && exit\nexec sleep 60\n")
    helm.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="too slowly"):
        HelmProgram(str(helm), tmp_path).run("upgrade", "--dry-run=server", namespace="plant", seconds=0.1)


class Pods:
    """A cluster of pods: it answers with one for each question, and keeps the selectors."""

    def __init__(self, image_id):
        self.asked = []
        self.image_id = image_id

    def list_objects(self, resource, namespace, *, selector):
        self.asked.append((resource.kind, namespace, selector))
        status = {"name": "web", "image": "app:1", "imageID": self.image_id, "state": {"running": {"startedAt": "x"}}}
        stopped = {**status, "name": "old", "state": {"terminated": {}}}
        return [{"metadata": {"name": f"a-{len(self.asked)}"}, "status": {"containerStatuses": [status, stopped]}}]


def test_the_images_of_a_release_are_those_of_the_pods_that_it_selects():
    digest = "sha256:" + "a" * 64
    pods = Pods(f"example.com/app@{digest}")
    made = manifest_objects(
        """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: other}
spec: {selector: {matchLabels: {app: web, tier: a}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}}
""",
        "a",
    )
    found = ReleaseObjects(pods).images(made, "plant")
    assert found == [RunningImage(f"a-{each}/web", "app:1", digest, digest) for each in (1, 2)]
    assert pods.asked == [
        ("Pod", "other", "app=web,tier=a"),
        ("Pod", "plant", "batch.kubernetes.io/job-name=once"),
    ]


class Ending:
    """A cluster whose objects end one look after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def resource_of(self, _obj):
        return Resource("v1", "Pod", "pods", namespaced=True, verbs=())

    def ask(self, _path):
        return self.answers.pop(0) if self.answers else None


def test_a_removal_lasts_until_what_is_being_deleted_is_gone(monkeypatch):
    """Helm 4.3 may end before; what a chart keeps has no date of its end."""
    monkeypatch.setattr(objects, "_LOOK_SECONDS", 0)
    ending = {"metadata": {"deletionTimestamp": "2026-11-30T18:00:00Z"}}
    made = manifest_objects("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n", "a")

    def waited(*answers, seconds=60.0):
        cluster = Ending(*answers)
        left = ReleaseObjects(cluster).wait_until_gone(made, "plant", time.monotonic() + seconds, lambda: False)
        return left, len(cluster.answers)

    assert waited(ending, ending, None) == ([], 0)
    assert waited({"metadata": {}}, ending) == ([], 1)
    assert waited(ending, ending, seconds=-1.0) == (["Pod web is being deleted"], 1)

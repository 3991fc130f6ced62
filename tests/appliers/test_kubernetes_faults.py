"""The applier `kubernetes` where an update breaks at one of its requests, and where a cluster refuses.

`MARGO_GITOPS_FAULT_STEP=1` breaks it in each way at every request; a run in CI takes some of them.
"""

import json
import os
import re
import signal
import time
from itertools import count

import pytest
from support.faulty_http import Answer
from support.kubernetes_proxy import kubernetes_proxy
from test_kubernetes_applier import DEPLOYMENT, KEY, workload_of

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.contract_kit import DEVICE
from margo_gitops.appliers.kubernetes import applier as module
from margo_gitops.appliers.kubernetes.applier import create
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesObject,
    EngineUnavailable,
    InstallFailed,
    KindMissing,
    RemoveFailed,
)

STEP = int(os.environ.get("MARGO_GITOPS_FAULT_STEP", "97"))
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments", namespaced=True, verbs=())
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps", namespaced=True, verbs=())


@pytest.fixture
def proxy(kubernetes_cluster, tmp_path):
    with kubernetes_proxy(kubernetes_cluster, tmp_path) as made:
        yield made


class Device:
    """An agent's applier, its workloads, and what a person at the cluster sees."""

    replicas = 0

    def __init__(self, folder, cluster, namespace, kubeconfig):
        self.folder, self.cluster, self.namespace, self.kubeconfig = folder, cluster, namespace, kubeconfig
        (folder / "agent").mkdir()
        self.admin = ClusterClient(cluster.kubeconfig)

    def applier(self):
        settings = {"kubeconfig": str(self.kubeconfig), "namespace": self.namespace}
        return create(ApplierContext(DEVICE, self.folder / "agent", settings))

    def workload(self, image="web:1", more="", **given):
        manifest = (
            DEPLOYMENT.format(name="web", image=image).replace("replicas: 1", f"replicas: {self.replicas}") + more
        )
        return workload_of(self.folder, KEY, self.namespace, manifest, **given)

    def kubectl(self, *words, given=""):
        return self.cluster.kubectl("-n", self.namespace, *words, given=given)

    def step(self, workload):
        applier = self.applier()
        applier.prepare(workload)
        applier.install(workload)

    def install(self, workload):
        self.step(workload)
        self.runs(workload)

    def runs(self, workload):
        assert [(each.digest, each.condition, each.by_hand) for each in self.applier().observe()] == [
            (workload.digest, "running", "")
        ]

    def image(self):
        [found] = self.admin.list_objects(DEPLOYMENTS, self.namespace)
        return found["spec"]["template"]["spec"]["containers"][0]["image"]

    def seen(self):
        """Which objects are there; of those of others, which version."""
        listed = self.admin.list_objects(CONFIG_MAPS, self.namespace)
        named = {each["metadata"]["name"]: each["metadata"] for each in listed}
        return {
            place: metadata["resourceVersion"] if "labels" not in metadata else ""
            for place, metadata in named.items()
            if place != "kube-root-ca.crt"
        }


@pytest.fixture
def device(tmp_path, kubernetes_cluster, kubernetes_namespace, proxy):
    made = Device(tmp_path, kubernetes_cluster, kubernetes_namespace, proxy.kubeconfig)
    yield made
    proxy.faults.clear()
    made.applier().remove(KEY)


def killed_at(proxy, device, workload, number, *, late):
    """Let an agent take a step, and kill it at a request, before or after the server has it; return whether it was."""
    child = os.fork()
    if not child:
        try:
            device.step(workload)
        finally:
            os._exit(0)
    numbers = count()

    def kill(*_):
        if next(numbers) != number:
            return None
        os.kill(child, signal.SIGKILL)
        return Answer(0, [], b"", raw=b"")

    where = proxy.faults if late else proxy.early
    where.append(kill)
    try:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    finally:
        where.clear()


GONE = Answer(0, [], b"", raw=b"")
LATE, EARLY = "after", "before"


def status_answer(code, message):
    content = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return Answer(code, [("Content-Type", "application/json")], json.dumps(content).encode())


KINDS = {
    "kill before": "kill",
    "kill after": "kill",
    "gone before": GONE,
    "gone after": GONE,
    "409": status_answer(409, "the object has been modified"),
    "410": status_answer(410, "too old resource version"),
    "422": status_answer(422, "spec: Invalid value"),
    "429": status_answer(429, "too many requests"),
    "500": status_answer(500, "etcdserver: request timed out"),
    "503": status_answer(503, "the server is shutting down"),
    "a page": Answer(200, [("Content-Type", "text/html")], b"<html>"),
}


def broken_at(proxy, device, workload, number, kind):
    """Let an update break at one of its requests."""
    late, answer, seen = kind.endswith("after"), KINDS[kind], count()
    if answer == "kill":
        killed_at(proxy, device, workload, number, late=late)  # or not: waiting takes more requests, or fewer
        return
    where = proxy.faults if late else proxy.early

    def breaks(*_):
        at = next(seen)
        broken.append(at)
        return answer if at == number or (answer is GONE and at > number) else None

    broken = []
    where.append(breaks)
    begin, error = len(proxy.requests), None
    try:
        device.step(workload)
    except ApplyError as raised:
        error = raised
    assert error is None or error.why
    assert error is None or isinstance(error, EngineUnavailable) or kind[0] == "4", error
    assert error or answer is not GONE or len(broken) <= number
    assert len(proxy.requests) - begin < 60
    if answer is GONE:
        begin = len(proxy.requests)
        with pytest.raises(EngineUnavailable):
            device.applier().observe()
        assert len(proxy.requests) - begin == 1
    where.clear()


def test_an_update_that_breaks_at_a_request_comes_through(device, proxy):
    device.kubectl("create", "configmap", "of-others", "--from-literal=a=b")
    device.install(device.workload("web:1"))
    begin, known = len(proxy.requests), device.seen()
    device.step(device.workload("web:2"))
    every = len(proxy.requests) - begin
    assert every < 60
    points = [(number, kind) for number in range(every) for kind in KINDS]
    for turn, (number, kind) in enumerate(points[STEP // 2 :: STEP]):
        workload = device.workload(f"web:{1 + turn % 2}")
        broken_at(proxy, device, workload, number, kind)
        assert device.image() in ("web:1", "web:2")
        device.install(workload)
        assert device.seen() == known, f"{kind} request {number}"


class Killed(BaseException):
    """Ends a step as a kill does."""


def test_what_ran_last_is_what_the_cluster_says(device, monkeypatch):
    def dies(*_):
        raise Killed

    device.install(device.workload("web:1"))
    second = device.workload("web:2")
    with monkeypatch.context() as dying:
        dying.setattr(module.KubernetesApplier, "_made_current", dies)
        with pytest.raises(Killed):
            device.step(second)
    device.runs(second)
    device.replicas = 1
    with pytest.raises(InstallFailed) as caught:
        device.step(device.workload("bad:1", timeout="0m1s"))
    assert caught.value.reinstated
    assert device.image() == "web:2"
    device.runs(second)


OLD = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: old, finalizers: [example.com/keeps]}\n"


def test_an_old_object_that_does_not_go_takes_no_update_back(device, monkeypatch):
    monkeypatch.setattr(module, "_REMOVE_SECONDS", 0.5)
    device.install(device.workload("web:1", OLD))
    second = device.workload("web:2")
    for _ in range(2):
        with pytest.raises(RemoveFailed, match=r"waits for example\.com/keeps"):
            device.step(second)
        assert device.image() == "web:2"
    device.kubectl("patch", "configmap", "old", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    device.install(second)


def test_why_the_cluster_makes_no_pods_is_said(device):
    device.install(device.workload("web:1"))
    label = "pod-security.kubernetes.io/enforce=restricted"
    device.cluster.kubectl("label", "namespace", device.namespace, label)
    device.replicas = 1
    stateful = "---\n" + DEPLOYMENT.format(name="db", image="db:1").partition("---")[0].replace(
        "Deployment", "StatefulSet"
    )
    with pytest.raises(InstallFailed) as caught:
        device.step(device.workload("web:2", f"---\n{stateful}", timeout="0m4s"))
    told = "\n".join(caught.value.why)
    assert len(re.findall("(?:Deployment|StatefulSet)[^\\n]*violates PodSecurity", told)) == 2, told
    assert caught.value.reinstated
    assert device.image() == "web:1"


WEBHOOK = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAME}
webhooks:
- name: guard.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 1
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
  rules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  clientConfig: {url: "https://127.0.0.1:1/"}
"""
POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  validations: [{expression: "false", message: this is immutable today}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny]}
"""


@pytest.mark.parametrize(
    ("guard", "error", "told"),
    [
        (WEBHOOK, EngineUnavailable, "start the webhook's service"),
        (POLICY, ClusterRefusesObject, "change the policy of the namespace"),
    ],
    ids=["webhook", "policy"],
)
def test_a_guard_of_the_cluster_refuses_before_anything_changes(device, proxy, guard, error, told):
    first = device.workload("web:1")
    device.install(first)
    manifest = guard.replace("NAME", device.namespace)
    device.cluster.kubectl("apply", "-f", "-", given=manifest)
    try:
        for _ in range(60):  # until the server has read it
            begin = len(proxy.requests)
            try:
                device.applier().prepare(device.workload("web:2"))
            except ApplyError as raised:
                found = raised
                break
            time.sleep(0.1)
        assert type(found) is error
        assert told in str(found)
        assert len(proxy.requests) - begin < 15
        device.runs(first)
    finally:
        device.cluster.kubectl("delete", "-f", "-", given=manifest)


CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
"""


def test_a_crd_that_goes_takes_its_objects_and_is_named(device):
    group = f"{device.namespace}.example.com"
    crd = CRD.replace("GROUP", group)
    device.cluster.kubectl("apply", "-f", "-", given=crd)
    device.cluster.kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}")
    widget = f"---\napiVersion: {group}/v1\nkind: Widget\nmetadata: {{name: a}}\n"
    first, applier = device.workload("web:1", widget), device.applier()
    device.install(first)
    assert [each.condition for each in applier.observe()] == ["running"]
    device.cluster.kubectl("delete", f"crd/widgets.{group}")
    [found] = applier.observe()
    assert found.by_hand == f"Widget.{group} {device.namespace}/a was removed"
    with pytest.raises(KindMissing, match="install what brings the kind"):
        applier.install(first)
    assert device.image() == "web:1"
    device.cluster.kubectl("apply", "-f", "-", given=crd)
    device.cluster.kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}")
    device.install(first)
    device.applier().remove(KEY)
    device.cluster.kubectl("delete", f"crd/widgets.{group}")

"""The applier `kubernetes` where a cluster refuses: what it says, and that what ran before runs on."""

import base64
import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from cluster_device import cluster_device, kubeconfig_of_role
from support.faulty_http import Answer, FaultyServer, Request, listening
from test_kubernetes_applier import DEPLOYMENT, KEY

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.contract_kit import DEVICE
from margo_gitops.appliers.kubernetes.applier import create
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesAgent,
    ClusterRefusesObject,
    EngineUnavailable,
    InstallFailed,
    KindMissing,
)


@pytest.fixture
def device(tmp_path, kubernetes_cluster, kubernetes_namespace):
    with cluster_device(tmp_path, kubernetes_cluster, kubernetes_namespace) as made:
        yield made


COMPLIANT = """\
      securityContext: {runAsNonRoot: true, runAsUser: 1, seccompProfile: {type: RuntimeDefault}}
      containers: [{name: web, image: "web:2", securityContext: {
        allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
"""
LIMITS = """
apiVersion: v1
kind: LimitRange
metadata: {name: small}
spec: {limits: [{type: Container, max: {cpu: "1"}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: none}
spec: {hard: {pods: "0"}}
"""


def test_why_the_cluster_makes_no_pods_is_said(device):
    """PodSecurity, a LimitRange and a quota of pods."""
    device.install(device.workload("web:1"))
    label = "pod-security.kubernetes.io/enforce=restricted"
    device.cluster.kubectl("label", "namespace", device.namespace, label)
    device.kubectl("apply", "-f", "-", given=LIMITS)
    device.replicas = 1

    def deployment(name):
        return "---\n" + DEPLOYMENT.format(name=name, image="web:2").partition("---")[0]

    big = deployment("db").replace("Deployment", "StatefulSet")
    big = big.replace('image: "web:2"', 'image: "web:2", resources: {limits: {cpu: 2}}')
    plain = deployment("plain").partition("    spec:")[0] + "    spec:\n" + COMPLIANT
    causes = (
        "Deployment.apps .*/web.*violates PodSecurity",
        "StatefulSet.apps .*/db.*maximum cpu usage per Container is 1",
        "Deployment.apps .*/plain.*exceeded quota: none",
    )
    for seconds in (3, 30):  # the controllers of a busy machine take longer
        with pytest.raises(InstallFailed) as caught:
            device.step(device.workload("web:2", big + plain, timeout=f"0m{seconds}s"))
        told = "\n".join(caught.value.why)
        if found := all(re.search(each, told) for each in causes):
            break
    assert found, told
    assert caught.value.reinstated
    assert device.image() == "web:1"


def prepared(device):
    """Prepare an update; return why it is refused, and the number of requests; None where it is not."""
    begin = len(device.proxy.requests)
    try:
        device.applier().prepare(device.workload("web:2"))
    except ApplyError as error:
        return error, len(device.proxy.requests) - begin
    return None


def refused(device):
    """Return why an update is refused, when the server has read what refuses it."""
    for _ in range(60):
        if found := prepared(device):
            error, requests = found
            assert requests < 15
            return error
        time.sleep(0.1)
    raise AssertionError("nothing refuses the update")


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


@contextmanager
def there(device, manifest):
    """Let objects of a person be there until the block ends."""
    device.cluster.kubectl("apply", "-f", "-", given=manifest)
    try:
        yield
    finally:
        device.cluster.kubectl("delete", "-f", "-", given=manifest)


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
  clientConfig: {url: "URL", caBundle: AUTHORITY}
"""


@dataclass(kw_only=True)
class Webhook(FaultyServer):
    """A webhook that the API server asks, with a certificate of its own authority."""

    does: str = "refuses"

    def _backend(self, request: Request) -> Answer:
        if self.does == "hangs":
            self.stopping.wait(3)
        if self.does in ("hangs", "is away"):
            return Answer(0, [], b"", raw=b"")
        asked = json.loads(request.body)
        allowed = self.does == "allows" or (self.does == "changes its mind" and bool(asked["request"]["dryRun"]))
        told = {"uid": asked["request"]["uid"], "allowed": allowed, "status": {"message": "not before the shift ends"}}
        review = {"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": told}
        return Answer(200, [("Content-Type", "application/json")], json.dumps(review).encode())


def test_a_policy_refuses_and_a_webhook_refuses_hangs_or_is_away(device):
    """Before a change, and between the dry run and the change; when it allows the update, it runs."""
    first = device.workload("web:1")
    device.install(first)
    with there(device, POLICY.replace("NAME", device.namespace)):
        found = refused(device)
        assert isinstance(found, ClusterRefusesObject)
        assert "change the policy of the namespace" in str(found)
        device.runs(first)
    webhook = Webhook(tls=device.proxy.tls)
    authority = base64.b64encode(device.cluster.ca_file.read_bytes()).decode()
    with listening(webhook):
        manifest = WEBHOOK.replace("NAME", device.namespace).replace("AUTHORITY", authority)
        with there(device, manifest.replace("URL", webhook.url("ask"))):
            for does, error, told in (
                ("refuses", ClusterRefusesObject, "ask who runs the webhook"),
                ("hangs", EngineUnavailable, "start the webhook's service"),
                ("is away", EngineUnavailable, "start the webhook's service"),
            ):
                webhook.does = does
                found = refused(device)
                assert isinstance(found, error), does
                assert told in str(found), does
                device.runs(first)
            webhook.does = "changes its mind"
            second = device.workload("web:2")
            with pytest.raises(ClusterRefusesObject, match="not before the shift ends"):
                device.step(second)
            assert device.image() == "web:1"
            webhook.does = "allows"
            device.install(second)


def test_the_role_of_the_manifests_is_enough_and_ends_at_its_namespace(device):
    kubeconfig = kubeconfig_of_role(device.cluster, device.namespace, device.folder)
    settings = {"kubeconfig": str(kubeconfig), "namespace": device.namespace}
    applier = create(ApplierContext(DEVICE, device.folder / "agent", settings))
    assert applier.observe() == []
    device.replicas = 1
    for image in ("web:1", "web:2"):
        workload = device.workload(image)
        applier.prepare(workload)
        applier.install(workload)
    with pytest.raises(InstallFailed) as caught:
        applier.install(device.workload("bad:1", timeout="0m1s"))
    assert caught.value.reinstated
    assert KEY in applier.images()
    applier.stop(KEY)
    applier.start(KEY)
    assert [(each.digest, each.by_hand) for each in applier.observe()] == [(workload.digest, "")]
    device.namespace = "default"
    with pytest.raises(ClusterRefusesAgent, match="with a Role"):
        applier.prepare(device.workload("web:1"))
    applier.remove(KEY)
    assert applier.observe() == []


HELD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/keeps]}\n"


def test_a_namespace_that_does_not_end_is_said_and_made_again(device):
    device.namespace += "-b"
    first = device.workload("web:1")
    device.install(first)
    device.kubectl("apply", "-f", "-", given=HELD)
    device.cluster.kubectl("delete", "namespace", device.namespace, "--wait=false")
    try:
        device.kubectl("wait", "--for=delete", "deployment/web", "configmap/web", "--timeout=30s")
        [found] = device.applier().observe()
        assert found.condition == "degraded"
        assert "was removed" in found.by_hand
        for workload in (first, device.workload("web:2")):
            with pytest.raises(ClusterRefusesObject, match="wait until the namespace is gone"):
                device.step(workload)
    finally:
        device.kubectl("patch", "configmap", "held", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    device.cluster.kubectl("wait", "--for=delete", f"namespace/{device.namespace}", "--timeout=30s")
    device.install(device.workload("web:2"))


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
    device.cluster.kubectl("delete", "--wait=false", f"crd/widgets.{group}")

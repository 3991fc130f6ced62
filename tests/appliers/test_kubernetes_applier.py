"""The applier `kubernetes` against a real API server."""

import re
from dataclasses import replace

import pytest
from workload_making import folder_artifact

from margo_gitops.appliers.applier import ApplierContext, WorkloadKey
from margo_gitops.appliers.contract_kit import DEVICE, OTHER_DEVICE, ApplierContract, make_workload
from margo_gitops.appliers.kubernetes.applier import create
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.errors import ClusterRefusesAgent, ClusterRefusesObject, FieldConflict, KindMissing, ObjectOfOthers

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: web, image: "{image}"}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}}}
data: {{image: "{image}"}}
"""


def workload_of(folder, key, namespace, manifest, **more):
    content = folder / "content"
    content.mkdir(exist_ok=True)
    (content / "app.yaml").write_text(manifest)
    made = make_workload(
        key, more.pop("values", {}), folder_artifact(content, key.component), profile_type="custom", **more
    )
    component = replace(made.component, extensions={OWN_EXTENSION: {"format": "kubernetes"}})
    metadata = replace(made.deployment.metadata, namespace=namespace)
    return replace(made, component=component, deployment=replace(made.deployment, metadata=metadata))


class TestKubernetes(ApplierContract):
    cuts = 1  # test_kubernetes_faults has the other places

    @pytest.fixture(autouse=True)
    def _folder_and_end(self, tmp_path, kubernetes_cluster, kubernetes_namespace):
        self.folder, self.cluster, self.namespace = tmp_path, kubernetes_cluster, kubernetes_namespace
        self.client = ClusterClient(kubernetes_cluster.kubeconfig)
        yield
        for applier in map(self.create, (DEVICE, OTHER_DEVICE)):
            for found in applier.observe():
                applier.remove(found.key)

    def create(self, device):
        folder = self.folder / device
        folder.mkdir(exist_ok=True)
        settings = {"kubeconfig": str(self.cluster.kubeconfig), "namespace": self.namespace}
        return create(ApplierContext(device, folder, settings))

    def workload(self, key, kind):
        name = f"a{key.deployment_id[:8]}"
        image = {"first": "web:1", "second": "web:2", "broken": "bad:1"}[kind]
        folder = self.folder / name / kind
        folder.mkdir(exist_ok=True, parents=True)
        timeout = "0m1s" if kind == "broken" else "0m40s"
        manifest = DEPLOYMENT.format(name=name, image=image)
        return workload_of(folder, key, self.namespace, manifest, timeout=timeout)

    def running(self):
        return {
            (each["kind"], each["metadata"]["name"]): each["metadata"].get(
                "generation", each["metadata"]["resourceVersion"]
            )
            for api, kind in (("apps/v1", "Deployment"), ("v1", "ConfigMap"))
            for each in self.client.list_objects(self.client.resource(api, kind), self.namespace)
        }

    def stop(self, key):
        path = self.client.resource("apps/v1", "Deployment").path(self.namespace, f"a{key.deployment_id[:8]}")
        self.client.request("DELETE", path)


KEY = WorkloadKey("0b5a3f0e-2f0c-4a51-9d2d-7c4f7d1d3a11", "web")


@pytest.fixture
def applier(tmp_path, kubernetes_cluster, kubernetes_namespace):
    settings = {"kubeconfig": str(kubernetes_cluster.kubeconfig), "namespace": kubernetes_namespace}
    made = create(ApplierContext(DEVICE, tmp_path, settings))
    yield made
    made.remove(KEY)


def install(applier, workload):
    applier.prepare(workload)
    applier.install(workload)


def test_what_a_person_did_is_seen_and_taken_back(applier, tmp_path, kubernetes_cluster, kubernetes_namespace):
    def kubectl(*words):
        return kubernetes_cluster.kubectl("-n", kubernetes_namespace, *words)

    first = workload_of(tmp_path, KEY, kubernetes_namespace, DEPLOYMENT.format(name="web", image="web:1"))
    install(applier, first)
    for words, told in (
        (
            ("scale", "deployment", "web", "--replicas=3"),
            "Deployment.apps .*/web was changed by kubectl: spec.replicas$",
        ),
        (("delete", "configmap", "web"), "ConfigMap .*/web was removed"),
        (
            ("patch", "configmap", "web", "-p", '{"data": {"image": "x"}}'),
            "ConfigMap .*/web was changed by kubectl-patch: data.image$",
        ),
    ):
        kubectl(*words)
        [found] = applier.observe()
        assert found.condition == "degraded"
        assert re.match(told, found.by_hand)
        install(applier, first)
        assert [(each.condition, each.by_hand) for each in applier.observe()] == [("running", "")]
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "1"


def test_what_others_made_and_what_the_server_lacks_is_refused_before_a_change(
    applier, tmp_path, kubernetes_cluster, kubernetes_namespace
):
    kubernetes_cluster.kubectl("-n", kubernetes_namespace, "create", "configmap", "web", "--from-literal=a=b")
    good = DEPLOYMENT.format(name="web", image="web:1")
    job = "---\napiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: nightly}\n"
    for manifest, error in ((good, ObjectOfOthers), (good.replace("name: web}", "name: other}") + job, KindMissing)):
        with pytest.raises(error):
            install(applier, workload_of(tmp_path, KEY, kubernetes_namespace, manifest))
        assert list(applier.observe()) == []
    assert kubernetes_cluster.kubectl("-n", kubernetes_namespace, "get", "deployments", "-o", "name") == ""


def test_an_update_takes_no_field_from_another_manager(applier, tmp_path, kubernetes_cluster, kubernetes_namespace):
    first = workload_of(tmp_path, KEY, kubernetes_namespace, DEPLOYMENT.format(name="web", image="web:1"))
    install(applier, first)
    added = ["patch", "configmap", "web", "--field-manager=tuner", "-p", '{"data": {"speed": "fast"}}']
    kubernetes_cluster.kubectl("-n", kubernetes_namespace, *added)
    manifest = DEPLOYMENT.format(name="web", image="web:1") + "  speed: slow\n"
    manifest = manifest.replace('data: {image: "web:1"}\n  speed', "data:\n  speed")
    with pytest.raises(FieldConflict, match=r"data\.speed: tuner"):
        install(applier, workload_of(tmp_path, KEY, kubernetes_namespace, manifest))
    assert [(each.digest, each.condition) for each in applier.observe()] == [(first.digest, "running")]


def test_a_cluster_that_refuses_says_why(tmp_path, kubernetes_cluster, kubernetes_namespace):
    kubectl, folder = kubernetes_cluster.kubectl, tmp_path / "agent"
    folder.mkdir()
    kubectl("-n", kubernetes_namespace, "create", "serviceaccount", "agent")
    workload = workload_of(tmp_path, KEY, kubernetes_namespace, DEPLOYMENT.format(name="web", image="web:1"))
    for seconds, error, told in ((-120, ClusterRefusesAgent, "renew"), (600, ClusterRefusesAgent, "with a Role")):
        token = kubernetes_cluster.token("agent", kubernetes_namespace, seconds=seconds)
        kubernetes_cluster.kubeconfig_with(token, tmp_path / "kubeconfig")
        settings = {"kubeconfig": str(tmp_path / "kubeconfig"), "namespace": kubernetes_namespace}
        with pytest.raises(error, match=told):
            create(ApplierContext(DEVICE, folder, settings)).prepare(workload)


def test_a_quota_that_is_used_up_leaves_what_ran_before(applier, tmp_path, kubernetes_cluster, kubernetes_namespace):
    first = workload_of(tmp_path, KEY, kubernetes_namespace, DEPLOYMENT.format(name="web", image="web:1"))
    install(applier, first)
    kubernetes_cluster.kubectl("-n", kubernetes_namespace, "create", "quota", "small", "--hard=count/configmaps=0")
    manifest = DEPLOYMENT.format(name="web", image="web:1") + DEPLOYMENT.format(name="more", image="web:1").replace(
        "apiVersion: apps", "---\napiVersion: apps"
    )
    with pytest.raises(ClusterRefusesObject, match="raise the quota"):
        install(applier, workload_of(tmp_path, KEY, kubernetes_namespace, manifest))
    assert [(each.digest, each.condition) for each in applier.observe()] == [(first.digest, "running")]

"""The applier `kubernetes` against a real API server."""

from dataclasses import replace

import pytest
from workload_making import folder_artifact

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.contract_kit import DEVICE, OTHER_DEVICE, ApplierContract, make_workload
from margo_gitops.appliers.kubernetes.applier import create
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.documents.deployment import OWN_EXTENSION

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
    cuts = 3

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

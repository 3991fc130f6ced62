"""A device that installs charts with real Helm, on a real API server, for tests."""

import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from workload_making import artifact_of, entry, tar_gz

from margo_gitops.appliers.applier import Applier, ApplierContext, WorkloadKey
from margo_gitops.appliers.contract_kit import make_workload
from margo_gitops.appliers.helm.applier import create
from margo_gitops.appliers.helm.releases import release_name
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource
from margo_gitops.appliers.kubernetes.looking import PODS

CHART = b"apiVersion: v2\nname: part\nversion: 1.0.0\n"
VALUES = b"image: app:1\nreplicas: 1\ngreeting: hello\npassword: ''\n"
TEMPLATE = b"""apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: {{ .Values.image | quote }}, resources: {limits: {cpu: 1000m}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}"}
data: {greeting: {{ .Values.greeting | quote }}, number: "{{ .Values.number }} {{ kindOf .Values.number }}"}
"""


READ = {
    kind: Resource(version, kind, f"{kind.lower()}s", namespaced=True, verbs=())
    for version, kind in [("apps/v1", "Deployment"), ("v1", "ConfigMap"), ("v1", "Secret"), ("batch/v1", "Job")]
}


def chart(*more: tuple[str, bytes], template: bytes = TEMPLATE) -> bytes:
    files = [("Chart.yaml", CHART), ("values.yaml", VALUES), ("templates/all.yaml", template), *more]
    return tar_gz(*(entry(f"part/{name}", content) for name, content in files))


@dataclass
class Site:
    """An applier for a device of its own, and what a person at the cluster sees."""

    folder: Path
    cluster: object
    namespace: str
    helm: Path
    settings: dict = field(default_factory=dict)
    device: str = field(default_factory=lambda: f"press-{uuid.uuid4().hex[:12]}")
    key: WorkloadKey = field(default_factory=lambda: WorkloadKey(str(uuid.uuid4()), "part"))

    def __post_init__(self) -> None:
        self.admin = ClusterClient(self.cluster.kubeconfig)

    def applier(self, device: str = "", **context) -> Applier:
        state = self.folder / (device or self.device)
        state.mkdir(exist_ok=True)
        settings = {"command": [str(self.helm)], "kubeconfig": str(self.cluster.kubeconfig), **self.settings}
        return create(ApplierContext(device or self.device, state, settings, **context))

    def workload(self, values=None, content=None, key=None, **more):
        artifact = artifact_of(content or chart(), self.folder, "part")
        made = make_workload(key or self.key, values or {}, artifact, profile_type="helm", **more)
        metadata = replace(made.deployment.metadata, namespace=self.namespace)
        return replace(made, deployment=replace(made.deployment, metadata=metadata))

    def installed(self, *values, **more) -> Applier:
        applier = self.applier()
        for each in values or ({},):
            applier.install(self.workload(each, **more))
        return applier

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments)

    def objects(self):
        """What is there, and what changes when it is changed."""
        return {
            (kind, each["metadata"]["name"]): (
                each["metadata"]["uid"],
                each["metadata"].get("generation") or each["metadata"]["resourceVersion"],
            )
            for kind in READ
            for each in self.listed(kind)
            if each["metadata"]["name"] != "kube-root-ca.crt"
        }

    def listed(self, kind: str):
        """Return the objects of a kind as the API server has them; kubectl would take 0.2 CPU seconds."""
        return self.admin.list_objects(READ.get(kind, PODS), self.namespace)

    @property
    def name(self) -> str:
        return release_name(self.key)

"""A device that applies manifests to a real API server, through a proxy with faults, for tests."""

from contextlib import contextmanager
from pathlib import Path

from support.kubernetes_proxy import kubernetes_proxy
from test_kubernetes_applier import DEPLOYMENT, KEY, workload_of

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.contract_kit import DEVICE
from margo_gitops.appliers.kubernetes.applier import create
from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource

DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments", namespaced=True, verbs=())
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps", namespaced=True, verbs=())


class ClusterDevice:
    """An agent's applier, its workloads, and what a person at the cluster sees."""

    replicas = 0

    def __init__(self, folder, cluster, namespace, proxy):
        self.folder, self.cluster, self.namespace, self.home = folder, cluster, namespace, namespace
        (folder / "agent").mkdir()
        self.admin = ClusterClient(cluster.kubeconfig)
        self.proxy = proxy

    def applier(self):
        settings = {"kubeconfig": str(self.proxy.kubeconfig), "namespace": self.home}
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


@contextmanager
def cluster_device(folder, cluster, namespace):
    """Yield a device, and remove its workload at the end."""
    with kubernetes_proxy(cluster, folder) as proxy:
        made = ClusterDevice(folder, cluster, namespace, proxy)
        yield made
        proxy.faults.clear()
        made.applier().remove(KEY)


def kubeconfig_of_role(cluster, namespace, folder):
    """Return a kubeconfig for an account that has the Role of docs/deploy/kubernetes in a namespace."""
    role = Path(__file__).parents[2] / "docs/deploy/kubernetes/workloads/role.yaml"
    content = role.read_text().replace("name: margo-gitops-agent", "name: agent")
    for space in ("margo-gitops", "margo"):
        content = content.replace(f"namespace: {space}\n", f"namespace: {namespace}\n")
    cluster.kubectl("-n", namespace, "create", "serviceaccount", "agent")
    cluster.kubectl("apply", "-f", "-", given=content)
    return cluster.kubeconfig_with(cluster.token("agent", namespace), folder / "role", namespace=namespace)

"""The applier `handover` on a real API server: its promises, with a controller that this test plays."""

import multiprocessing
import time
from dataclasses import replace

import pytest
from support.real import unavailable
from test_handover_documents import chart
from testbed.controller_schemas import controller_definitions
from testbed.errors import UnavailableError
from testbed.places import state_folder

from margo_gitops.appliers.applier import ApplierContext, WorkloadKey, never
from margo_gitops.appliers.contract_kit import ApplierContract, make_workload
from margo_gitops.appliers.handover.applier import create
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION, Artifact
from margo_gitops.documents.kubernetes_objects import list_at, mapping_at, text_at
from margo_gitops.errors import EngineUnavailable, InstallFailed, KindMissing, StepInterrupted

MERGE = "application/merge-patch+json"
KUSTOMIZATIONS = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{}/kustomizations"
ARTIFACTS = "/apis/source.toolkit.fluxcd.io/v1/namespaces/{}/externalartifacts"


@pytest.fixture(scope="module")
def definitions(kubernetes_cluster):
    """The kinds of the controllers; they stay on the server, as other tests may use them."""
    try:
        folder = controller_definitions(state_folder())
    except UnavailableError as error:
        unavailable(f"schemas: {error}")
    files = [f"--filename={file}" for file in folder.glob("*.toolkit.fluxcd.io_*.yaml")]
    kubernetes_cluster.kubectl("apply", "--server-side", "--force-conflicts", *files)
    client = ClusterClient(kubernetes_cluster.kubeconfig)
    while not all(client.ask(path.format("default")) for path in (KUSTOMIZATIONS, ARTIFACTS)):
        time.sleep(0.05)


def play(kubeconfig, namespace):
    """Do as Flux does, for manifests: answer each generation once, and refuse content whose URL says broken."""
    client = ClusterClient(kubeconfig)
    while True:
        time.sleep(0.02)
        for each in list_at(client.ask(KUSTOMIZATIONS.format(namespace)), "items"):
            generation = mapping_at(each, "metadata")["generation"]
            if mapping_at(each, "status").get("observedGeneration") == generation:
                continue
            name, source = text_at(each, "metadata", "name"), text_at(each, "spec", "sourceRef", "name")
            held = client.ask(f"{ARTIFACTS.format(namespace)}/{source}")
            if held is None or not text_at(held, "status", "artifact", "url"):
                continue
            is_broken = "broken" in text_at(held, "status", "artifact", "url")
            ready = {"type": "Ready", "status": "False" if is_broken else "True", "reason": "BuildFailed"}
            ready |= {"message": "no kind is registered", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            status = {"observedGeneration": generation, "conditions": [{**ready, "observedGeneration": generation}]}
            client.request(
                "PATCH",
                f"{KUSTOMIZATIONS.format(namespace)}/{name}/status",
                body={"status": status},
                content_type=MERGE,
            )


@pytest.fixture
def played(kubernetes_cluster, kubernetes_namespace, definitions):
    """Flux, played by a process."""
    process = multiprocessing.get_context("fork").Process(
        target=play, args=(kubernetes_cluster.kubeconfig, kubernetes_namespace), daemon=True
    )
    process.start()
    yield
    process.kill()
    process.join()


def manifests(key, kind):
    content = Artifact(key.component, f"https://files.example.com/{kind}.tar.gz", sha256(kind.encode()))
    item = make_workload(key, artifact=content, profile_type="custom", timeout="0m20s")
    return replace(item, component=replace(item.component, extensions={OWN_EXTENSION: {"format": "kubernetes"}}))


@pytest.mark.usefixtures("played")
class TestContract(ApplierContract):
    """The promises, with documents of Flux."""

    cuts = 2

    @pytest.fixture(autouse=True)
    def _place(self, kubernetes_cluster, kubernetes_namespace, tmp_path):
        self.cluster, self.namespace, self.folder = kubernetes_cluster, kubernetes_namespace, tmp_path

    def create(self, device):
        folder = self.folder / device
        folder.mkdir(exist_ok=True)
        settings = {"format": "flux", "controllerNamespace": self.namespace}
        return create(ApplierContext(device, folder, {**settings, "kubeconfig": str(self.cluster.kubeconfig)}))

    def workload(self, key, kind):
        return manifests(key, kind)

    def running(self):
        client = ClusterClient(self.cluster.kubeconfig)
        return [
            (text_at(each, "metadata", "name"), text_at(each, "metadata", "uid"), each["spec"])
            for path in (KUSTOMIZATIONS, ARTIFACTS)
            for each in list_at(client.ask(path.format(self.namespace)), "items")
        ]

    def stop(self, key):
        label = f"--selector=org.margo-gitops.deployment-id={key.deployment_id}"
        self.cluster.kubectl("-n", self.namespace, "delete", "kustomizations", label)

    def test_an_edited_document_is_seen_and_written_again(self, key):
        """Drift: what a person did to it."""
        applier, first = self.create("press-07"), self.workload(key, "first")
        self._install(applier, first)
        self.cluster.kubectl(
            *("-n", self.namespace, "patch", "kustomizations", "--type=merge", "-p", '{"spec":{"prune":false}}'),
            self.running()[0][0],
        )
        (found,) = applier.observe()
        assert (found.condition, found.by_hand) == ("degraded", "its document was edited")
        applier.install(first)
        assert [each.by_hand for each in applier.observe()] == [""]

    def test_the_controllers_words_are_told(self, key):
        with pytest.raises(InstallFailed) as failed:
            self.create("press-07").install(self.workload(key, "broken"))
        assert failed.value.why == ("no kind is registered",)


@pytest.mark.usefixtures("definitions")
def test_a_plant_without_the_controller(kubernetes_cluster, kubernetes_namespace, tmp_path):
    """The kind, or the namespace, is not there; nothing else has `HelmRelease` on this server."""

    def prepare(item, namespace):
        settings = {"format": "flux", "kubeconfig": str(kubernetes_cluster.kubeconfig)}
        applier = create(ApplierContext("press-07", tmp_path, {**settings, "controllerNamespace": namespace}))
        applier.prepare(item)

    with pytest.raises(KindMissing, match="HelmRelease"):
        prepare(chart(), kubernetes_namespace)
    with pytest.raises(EngineUnavailable, match="controllerNamespace"):
        prepare(manifests(WorkloadKey("an-id", "part"), "first"), "nowhere")


@pytest.mark.usefixtures("definitions")
def test_a_controller_that_says_nothing(kubernetes_cluster, kubernetes_namespace, tmp_path):
    """HANDOVER-5: what no controller has seen is not installed; nothing of it is left."""
    settings = {"format": "flux", "controllerNamespace": kubernetes_namespace}
    settings["kubeconfig"] = str(kubernetes_cluster.kubeconfig)
    applier = create(ApplierContext("press-07", tmp_path, settings))
    silent = manifests(WorkloadKey("an-id", "part"), "first")
    applier.interrupted = lambda: True
    with pytest.raises(StepInterrupted):
        applier.install(silent)
    assert [found.condition for found in applier.observe()] == ["starting"]
    applier.interrupted = never
    with pytest.raises(InstallFailed) as failed:
        applier.install(replace(silent, longest_seconds=0))
    assert failed.value.why == ("Flux has not seen it yet",)
    assert failed.value.reinstated
    assert not applier.observe()

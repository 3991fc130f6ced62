"""What hand-over writes for Flux, and Flux's own kustomize-controller, which takes it."""

import http.server
import json
import ssl
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from workload_making import entry, tar_gz, workload

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.files import create as create_files
from margo_gitops.appliers.handover.applier import create
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION, Artifact
from margo_gitops.errors import InstallFailed

ID = "9f0c8a1e-56c5-4f0e-9d5a-0c6f6c3f0a11"


def settings(name, value):
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: '{value}'}}\n"


@pytest.fixture
def plant(flux, kubernetes_namespace):
    """Archives by https, and what runs in the namespace."""
    held = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(held[self.path])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(flux.cluster.folder / "server.pem", flux.cluster.folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def item(timeout="0m40s", **files):
        """Return a workload whose content has these manifests."""
        archive = tar_gz(*(entry(f"{name}.yaml", text.encode()) for name, text in files.items()))
        digest = sha256(archive)
        held[f"/{digest}"] = archive
        artifact = Artifact("hmi", f"https://127.0.0.1:{server.server_port}/{digest}", digest)
        made = workload(artifact, deployment_id=ID, profile="custom", timeout=timeout)
        metadata = replace(made.deployment.metadata, namespace=kubernetes_namespace)
        component = replace(made.component, extensions={OWN_EXTENSION: {"format": "kubernetes"}})
        return replace(made, component=component, deployment=replace(made.deployment, metadata=metadata))

    def kubectl(*arguments, given=""):
        return flux.cluster.kubectl("-n", kubernetes_namespace, *arguments, given=given)

    def running():
        listed = json.loads(kubectl("get", "configmaps", "-o", "json"))["items"]
        return {each["metadata"]["name"]: each["data"]["a"] for each in listed if "a" in each["data"]}

    yield SimpleNamespace(
        item=item, kubectl=kubectl, running=running, namespace=kubernetes_namespace, cluster=flux.cluster
    )
    server.shutdown()
    server.server_close()


def test_flux_applies_prunes_and_removes_what_the_applier_hands_over(plant, tmp_path):
    told = {"format": "flux", "controllerNamespace": plant.namespace, "kubeconfig": str(plant.cluster.kubeconfig)}
    applier = create(ApplierContext("press-07", tmp_path, told))
    broken = "apiVersion: example.com/v1\nkind: Unknown\nmetadata: {name: x}\n"

    def deliver(item):
        applier.prepare(item)
        applier.install(item)

    deliver(plant.item(one=settings("one", 1), two=settings("two", 1)))
    assert plant.running() == {"one": "1", "two": "1"}
    second = plant.item(one=settings("one", 2))
    deliver(second)
    assert plant.running() == {"one": "2"}

    with pytest.raises(InstallFailed) as failed:
        deliver(plant.item("0m5s", one=broken))
    assert failed.value.reinstated
    assert "example.com/v1" in "".join(failed.value.why)
    (found,) = applier.observe()
    assert (found.digest, found.condition, plant.running()) == (second.digest, "running", {"one": "2"})

    applier.remove(found.key)
    assert (plant.running(), list(applier.observe())) == ({}, [])


def test_flux_applies_what_the_files_applier_writes_and_prunes_what_it_takes_away(plant, tmp_path):
    told = {"format": "flux", "controllerNamespace": plant.namespace, "folder": str(tmp_path / "out")}
    applier = create_files(ApplierContext("press-07", tmp_path, {**told, "caFile": str(plant.cluster.ca_file)}))

    written = tmp_path / "out" / ID / "hmi/handover.yaml"

    def hand_over(item):
        """Apply the documents, as a hook does, and fetch the content, as Flux's source-controller would."""
        applier.install(item)
        plant.kubectl("apply", "-f", written)
        (source,) = plant.kubectl("get", "ocirepositories", "-o", "name").split()
        now = "2026-01-01T00:00:00Z"
        ready = {"type": "Ready", "status": "True", "reason": "Fetched", "message": "", "lastTransitionTime": now}
        artifact = {"url": item.artifact.url, "path": "x", "digest": item.artifact.digest, "lastUpdateTime": now}
        artifact["revision"] = f"1.0.0@{item.artifact.digest}"
        status = json.dumps({"status": {"artifact": artifact, "conditions": [ready]}})
        plant.kubectl("patch", source, "--subresource=status", "--type=merge", "--patch", status)

    hand_over(plant.item(one=settings("one", 1), two=settings("two", 1)))
    plant.kubectl("wait", "configmap/two", "--for=create", "--timeout=30s")
    hand_over(plant.item(one=settings("one", 2)))
    plant.kubectl("wait", "configmap/two", "--for=delete", "--timeout=30s")
    plant.kubectl("wait", "kustomizations", "--all", "--for=condition=Ready", "--timeout=30s")
    assert plant.running() == {"one": "2"}
    plant.kubectl("delete", "-f", written, "--timeout=30s")
    assert plant.running() == {}

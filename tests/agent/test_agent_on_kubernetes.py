"""From a commit to pods: the agent with the appliers `helm` and `kubernetes` on a real API server."""

import json
import subprocess
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from device_world import DEVICE, World, deployment_bytes, deployment_id, snapshot_of
from support.faulty_http import Answer
from support.kubernetes_proxy import kubernetes_proxy
from test_time_of_a_service import Plant
from testbed.kubernetes_cluster import KubernetesCluster
from testbed.test_image import TEST_IMAGE, TEST_IMAGE_NEXT

from margo_gitops.agent.memory.events import Reason
from margo_gitops.appliers.applier import Applier, ApplierContext, WorkloadKey
from margo_gitops.appliers.helm.releases import release_name
from margo_gitops.appliers.kubernetes.applier import create as kubernetes_applier
from margo_gitops.digests import folder_digest, sha256
from margo_gitops.documents.nodes import Json

TEMPLATE = Path(__file__).parents[2] / "repo-template/applications/com-example-greeting/1.0.0"
CHART = TEMPLATE / "components/greeting-chart"
PANEL = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: PANEL}
spec:
  replicas: 1
  selector: {matchLabels: {app: PANEL}}
  template:
    metadata: {labels: {app: PANEL}}
    spec: {containers: [{name: panel, image: "web:1"}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: PANEL}
data: {}
"""
ENVIRONMENT = "spec.template.spec.containers[name=panel].env[name=GREETING].value"


SERVING = (
    (
        b'trap exit TERM; while :; do echo "$GREETING"; sleep 5 & wait; done',
        b'echo "$GREETING" | tee /tmp/$GREETING; trap exit TERM; httpd -f -p 8080 -h /tmp & wait',
    ),
    (
        b"          command:",
        b"""          readinessProbe: {httpGet: {path: /hello, port: 8080}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /, port: 8080}, failureThreshold: 100}
          command:""",
    ),
    (b"readOnlyRootFilesystem: true", b"readOnlyRootFilesystem: false"),
    (b"      containers:", b"      terminationGracePeriodSeconds: 1\n      containers:"),
)
"""Changes to the scaffold's chart."""


class Cell(World):
    """A device that is a namespace of a cluster."""

    cluster: KubernetesCluster
    namespace: str
    helm: Path
    serves = False
    """Whether its chart serves the greeting by HTTP, and is ready when it does."""

    def start(self) -> None:
        reached: dict[str, Json] = {"kubeconfig": str(self.cluster.kubeconfig)}
        helm: Json = {**reached, "command": [str(self.helm)]}
        self.configure(appliers={"helm": helm, "kubernetes": {**reached, "namespace": self.namespace}})

    def kubectl(self, *arguments: str | Path, given: str = "") -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, given=given)

    def person(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run what a person types, on the cluster."""
        known = {**self.cluster.environment, "HOME": str(self.folder), **variables}
        return subprocess.run(command, env=known, capture_output=True, text=True, check=False, timeout=60)

    def once(self, *options: str) -> int:
        self.said = self.agent("once", *options)
        return self.said.returncode

    def greetings(self) -> dict[str, str]:
        """Return what each ready pod was started with, by the object that it belongs to."""
        pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {
            pod["metadata"]["labels"]["app"]: pod["spec"]["containers"][0]["env"][0]["value"]
            for pod in pods
            if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
            and "deletionTimestamp" not in pod["metadata"]
        }

    def states(self) -> dict[str, str]:
        """Return what the agent says of each deployment."""
        told = json.loads(self.agent("status", "--output", "json").stdout)
        return {each["name"]: each["status"]["status"]["state"] for each in told["deployments"]}

    def deployments(self) -> dict[str, tuple[str, int]]:
        """Return the greeting and the number of pods that each Deployment asks for."""
        found = {}
        for each in json.loads(self.kubectl("get", "deployments", "-o", "json"))["items"]:
            container = each["spec"]["template"]["spec"]["containers"][0]
            found[each["metadata"]["name"]] = (container["env"][0]["value"], each["spec"]["replicas"])
        return found

    def content(self, files: dict[str, bytes], name: str) -> Json:
        """Return where the device finds the content of a component."""
        for path, content in files.items():
            place = self.folder / "content" / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        digest = folder_digest({path: sha256(content) for path, content in files.items()})
        return {"url": (self.folder / "content" / name).as_uri(), "digest": digest}

    def chart(self, number: int, greeting: str, image: str = "web:1", **own: Json) -> dict[int, bytes]:
        """Return a deployment of the scaffold's chart."""
        files = {path.relative_to(CHART).as_posix(): path.read_bytes() for path in CHART.rglob("*.yaml")}
        if self.serves:
            template = files["templates/deployment.yaml"]
            for old, new in SERVING:
                assert old in template
                template = template.replace(old, new)
            files["templates/deployment.yaml"] = template
        artifact: Json = {"component": "greeting-chart", **self.content(files, "chart")}  # type: ignore[dict-item]
        values: dict[str, Json] = {"greeting": greeting, "image": image}
        return self._deployment(number, "greeting-chart", "helm", values, artifact, own)

    def panel(self, number: int, greeting: str, image: str = "web:1", **own: Json) -> dict[int, bytes]:
        """Return a deployment of plain manifests."""
        name = f"panel-{number}"
        found = self.content({"panel.yaml": PANEL.replace("PANEL", name).encode()}, name)
        artifact: Json = {"component": "panel", **found}  # type: ignore[dict-item]
        values: dict[str, Json] = {
            f"Deployment/{name}:{ENVIRONMENT}": greeting,
            f"Deployment/{name}:spec.template.spec.containers[name=panel].image": image,
            f"ConfigMap/{name}:data.greeting": greeting,
        }
        return self._deployment(number, "panel", "custom", values, artifact, own)

    def both(self, number: int, policy: str) -> dict[int, bytes]:
        """Return a deployment of each kind with a policy about what a person changes."""
        return self.chart(number, "hello", onDrift=policy) | self.panel(number + 3, "hello", onDrift=policy)

    def _deployment(
        self, number: int, component: str, kind: str, values: dict[str, Json], artifact: Json, own: dict[str, Json]
    ) -> dict[int, bytes]:
        is_broken = "bad" in str(values) or "sick" in str(values)
        document = deployment_bytes(
            number,
            values=values,
            components=[component],
            kind=kind,
            extension={"artifacts": [artifact], **own},
            device=self.device,
            namespace=self.namespace,
            properties={"wait": True, "timeout": "0m3s" if is_broken else "1m0s"},
            content="kubernetes" if kind == "custom" else None,
        )
        return {number: document}


@pytest.fixture
def cell(kubernetes_cluster: KubernetesCluster, kubernetes_namespace: str, helm_program: Path, tmp_path: Path) -> Cell:
    return new_cell(tmp_path, kubernetes_cluster, kubernetes_namespace, helm_program)


def new_cell(folder: Path, cluster: KubernetesCluster, namespace: str, helm: Path) -> Cell:
    cell = Cell(folder / "cell", device=f"cell-{uuid.uuid4().hex[:12]}")
    cell.cluster, cell.namespace, cell.helm = cluster, namespace, helm
    cell.start()
    return cell


def release(number: int) -> str:
    return release_name(WorkloadKey(deployment_id(number), "greeting-chart"))


def test_commits_become_pods_updates_replace_them_and_failures_leave_them(cell: Cell) -> None:
    def publish(greeting: str, image: str = "web:1") -> int:
        cell.publish(cell.chart(1, greeting, image) | cell.panel(2, greeting, image))
        return cell.once()

    def both(value: str) -> dict[str, str]:
        return {release(1): value, "panel-2": value}

    def states(value: str) -> dict[str, str]:
        return {"app-1": value, "app-2": value}

    assert (publish("hello"), cell.greetings()) == (0, both("hello")), cell.said.stderr
    assert (publish("welcome"), cell.greetings()) == (0, both("welcome")), cell.said.stderr
    assert cell.states() == states("installed")

    assert (publish("late", "bad:1"), cell.greetings()) == (5, both("welcome")), cell.said.stderr
    assert cell.states() == states("failed")
    told = [line for line in cell.said.stderr.splitlines() if "WorkloadFailed" in line]
    assert ["what ran before runs again" in line and "ImagePullBackOff" in line for line in told] == [True, True]

    assert (publish("mended"), cell.greetings()) == (0, both("mended")), cell.said.stderr
    assert cell.states() == states("installed")

    cell.publish({})
    assert cell.once() == 0, cell.said.stderr
    left = cell.kubectl(
        "get", "all,configmaps,secrets", "--field-selector=metadata.name!=kube-root-ca.crt", "-o", "name"
    )
    assert left == ""


def test_what_a_person_edits_scales_and_deletes_under_each_policy(cell: Cell) -> None:
    policies = ("repair", "report", "respect")
    cell.publish(
        {number: document for at, policy in enumerate(policies) for number, document in cell.both(at, policy).items()}
    )
    right = {**{release(at): ("hello", 1) for at in range(3)}, **{f"panel-{at + 3}": ("hello", 1) for at in range(3)}}
    assert (cell.once(), cell.deployments()) == (0, right), cell.said.stderr

    done = cell.person(
        *("kubectl", "-n", cell.namespace, "edit", "deployments", *(release(at) for at in range(3))),
        KUBE_EDITOR="sed -i s/hello/edited/",
    )
    assert done.returncode == 0, done.stderr
    cell.kubectl("scale", "--replicas=3", "deployments", *(f"panel-{at + 3}" for at in range(3)))
    edited = {release(1): ("edited", 1), release(2): ("edited", 1), "panel-4": ("hello", 3), "panel-5": ("hello", 3)}
    assert (cell.once(), cell.deployments()) == (5, right | edited), cell.said.stderr

    cell.kubectl("delete", "deployments", *right)
    repaired = {name: right[name] for name in (release(0), "panel-3")}
    assert (cell.once(), cell.deployments()) == (5, repaired), cell.said.stderr
    assert (cell.once("--now"), cell.deployments()) == (0, right), cell.said.stderr


def test_the_tools_of_a_person_show_what_the_agent_did(cell: Cell) -> None:
    """`helm list`, labels of the ApplySet, `kubectl apply --prune --applyset`, `kubectl diff`."""
    for greeting in ("hello", "welcome"):
        cell.publish(cell.chart(1, greeting) | cell.panel(2, greeting))
        assert cell.once() == 0, cell.said.stderr

    (listed,) = json.loads(cell.person(cell.helm, "list", "-n", cell.namespace, "-o", "json").stdout)
    expected = {"name": release(1), "revision": "2", "status": "deployed", "chart": "greeting-chart-1.0.0"}
    assert listed | expected == listed

    (parent,) = json.loads(cell.kubectl("get", "configmaps", "-l", "applyset.kubernetes.io/id", "-o", "json"))["items"]
    selector = f"applyset.kubernetes.io/part-of={parent['metadata']['labels']['applyset.kubernetes.io/id']}"
    found = cell.kubectl("get", "all,configmaps", "-l", selector, "-o", "name").split()
    assert found == ["deployment.apps/panel-2", "configmap/panel-2"]
    assert parent["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"] == (
        "ConfigMap,Deployment.apps"
    )
    kubectl = ("kubectl", "-n", cell.namespace)
    applied = cell.person(
        *(*kubectl, "apply", "--prune", f"--applyset=configmap/{parent['metadata']['name']}", "-f"),
        cell.folder / "content/panel-2/panel.yaml",
        KUBECTL_APPLYSET="true",
    )
    assert applied.returncode != 0
    assert "margo-gitops" in applied.stderr
    assert cell.kubectl("get", "all,configmaps", "-l", selector, "-o", "name").split() == found

    chart = cell.folder / "chart.yaml"
    chart.write_text(cell.person(cell.helm, "get", "manifest", "-n", cell.namespace, release(1)).stdout)
    panel = cell.folder / "panel.yaml"
    container = '{name: panel, image: "web:1", env: [{name: GREETING, value: welcome}]}'
    text = PANEL.replace("PANEL", "panel-2").replace('{name: panel, image: "web:1"}', container)
    panel.write_text(text.replace("data: {}", "data: {greeting: welcome}"))
    for file, name in ((chart, release(1)), (panel, "panel-2")):
        assert file.stat().st_size > 0
        same = cell.person(*kubectl, "diff", "-f", file)
        assert (same.returncode, same.stdout) == (0, ""), same.stderr
        cell.kubectl("set", "env", f"deployment/{name}", "GREETING=evil")
        changed = cell.person(*kubectl, "diff", "-f", file)
        assert changed.returncode == 1
        assert "value: evil\n+" in changed.stdout


@dataclass
class ClusterPlant(Plant):
    """A service in a time of its own, whose engine is a cluster."""

    kubeconfig: Path = Path()
    namespace: str = ""

    def appliers(self) -> dict[str, Applier]:
        settings: dict[str, Json] = {"kubeconfig": str(self.kubeconfig), "namespace": self.namespace}
        (self.folder / "applier").mkdir(exist_ok=True)
        return {"kubernetes": kubernetes_applier(ApplierContext(DEVICE, self.folder / "applier", settings))}


def test_a_cluster_that_is_away_for_an_hour_is_asked_once_a_look_and_then_updated(
    kubernetes_cluster: KubernetesCluster, kubernetes_namespace: str, tmp_path: Path
) -> None:
    cell = Cell(tmp_path / "cell")
    cell.namespace = kubernetes_namespace
    cell.cluster = kubernetes_cluster
    with kubernetes_proxy(kubernetes_cluster, tmp_path) as proxy:
        plant = ClusterPlant(tmp_path, kubeconfig=proxy.kubeconfig, namespace=kubernetes_namespace)

        def publish(version: int, greeting: str) -> None:
            parents = (plant.snapshot.revision,) if plant.snapshot else ()
            plant.snapshot = snapshot_of(version, cell.panel(1, greeting), key=None, parents=parents)

        publish(1, "hello")
        plant.live(60)
        publish(2, "welcome")
        proxy.early.append(lambda _: Answer(0, [], b"", raw=b""))
        begin, away = len(proxy.requests), plant.now
        plant.live(3600)
        assert 55 <= len(proxy.requests) - begin <= 65, "one a minute"
        assert plant.count(Reason.WORKLOAD_FAILED) == 1
        assert (plant.component.state, plant.component.code) == ("failed", "MG1601")
        assert plant.component.changed_at == pytest.approx(away, abs=60), "it says since when"
        assert cell.greetings() == {"panel-1": "hello"}

        proxy.early.clear()
        plant.live(120)
        assert plant.component.state == "installed"
        assert cell.greetings() == {"panel-1": "welcome"}


def test_a_chart_with_probes_in_real_pods(
    kubernetes_node: KubernetesCluster, helm_program: Path, tmp_path: Path
) -> None:
    """First version, update, failed update that returns, removal, on a node that runs pods."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    cell = new_cell(tmp_path, kubernetes_node, namespace, helm_program)
    cell.serves = True

    def served(greeting: str) -> list[str]:
        """Return what each ready pod says by HTTP."""
        pods = json.loads(cell.kubectl("get", "pods", "-o", "json"))["items"]
        ready = [
            pod["status"]["podIP"]
            for pod in pods
            if all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))
        ]
        found = []
        for address in ready:
            with urllib.request.urlopen(f"http://{address}:8080/{greeting}", timeout=10) as answer:
                found.append(answer.read().decode().strip())
        return found

    def publish(greeting: str, image: str = TEST_IMAGE) -> int:
        cell.publish(cell.chart(1, greeting, image))
        return cell.once()

    try:
        assert (publish("hello"), served("hello")) == (0, ["hello"]), cell.said.stderr
        assert (publish("hello", TEST_IMAGE_NEXT), served("hello")) == (0, ["hello"]), cell.said.stderr
        deployment = f"deployment/{release(1)}"
        assert cell.kubectl("logs", deployment) == "hello\n"
        assert "IMAGE_VERSION=2\n" in cell.kubectl("exec", deployment, "--", "env")

        assert (publish("sick", TEST_IMAGE_NEXT), served("hello")) == (5, ["hello"]), cell.said.stderr
        assert "what ran before runs again" in cell.said.stderr
        assert cell.states() == {"app-1": "failed"}

        cell.publish({})
        assert cell.once() == 0, cell.said.stderr
        assert cell.kubectl("get", "deployments,pods", "-o", "name") == ""
    finally:
        cell.cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")

"""One description, two profiles: an application on a Docker device and on a cluster, by one deployment."""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from testbed.docker_engine import DockerEngine
from testbed.kubernetes_cluster import KubernetesCluster
from testbed.test_image import TEST_IMAGE

APPLICATION = "com-example-greeting"
AGENT = """\
apiVersion: margo-gitops/v1
kind: AgentConfiguration
device: {device}
stateFolder: {device}
source: {{git: {{url: "file://{state}"}}}}
trust: {{unsigned: true}}
appliers: {appliers}
"""


class Plant:
    """The scaffold's fleet with two devices of its own, and the agents of both."""

    def __init__(self, folder: Path, engine: DockerEngine, cluster: KubernetesCluster, helm: Path) -> None:
        name = uuid.uuid4().hex[:12]
        self.folder, self.engine, self.cluster, self.namespace = folder, engine, cluster, f"plant-{name}"
        self.press, self.cell = f"press-{name}", f"cell-{name}"
        self.fleet = FleetFolder.from_template(folder / "fleet")
        self.fleet.remove("deployments/line-monitor.yaml")
        settings = {"kubeconfig": str(cluster.kubeconfig), "command": [str(helm)]}
        for device, runs, appliers in (
            (self.press, "compose", {"compose": {}}),
            (self.cell, "helm", {"helm": settings}),
        ):
            offered = {"supportedDeploymentTypes": [runs]}
            self.fleet.device(device, site="south", labels={"line": 7}, properties=offered)
            text = AGENT.format(device=device, state=folder / "my-fleet-state.git", appliers=json.dumps(appliers))
            (folder / f"{device}.yaml").write_text(text)
        self.fleet.change("margo-gitops.yaml", "name: my-fleet", f"name: plant-{name}")
        self.fleet.change("margo-gitops.yaml", "\nspec:", f"\nspec:\n  namespace: {self.namespace}")
        self.fleet.change("margo-gitops.yaml", "/srv/my-fleet", str(self.fleet.root))

    def deliver(self, greeting: str | None) -> None:
        """Commit a deployment for both devices, or none; render; let both agents work once."""
        if greeting is None:
            self.fleet.remove("deployments/greeting.yaml")
        else:
            parameters = {"greeting": greeting, "image": TEST_IMAGE}
            self.fleet.deployment("greeting", APPLICATION, on=[self.press, self.cell], parameters=parameters)
        self.fleet.commit()
        done = margo_gitops("render", "--fleet", self.fleet.root, cwd=self.folder)
        assert done.code == 0, done
        for device in (self.press, self.cell):
            config = self.folder / f"{device}.yaml"
            done = margo_gitops(
                *("agent", "once", "--config", config), cwd=self.folder, environment=self.engine.environment
            )
            assert done.code == 0, done

    def docker(self, *arguments: str) -> str:
        environment = dict(self.engine.environment)
        return subprocess.run(
            ["docker", *arguments], env=environment, capture_output=True, check=True, timeout=60, text=True
        ).stdout

    def containers(self) -> list[str]:
        return self.docker("ps", "-q", "--filter", f"label=org.margo-gitops.device={self.press}").split()

    def environments(self) -> list[str]:
        """Return the variable GREETING of the container, and of the pod's."""
        seen = [json.loads(self.docker("inspect", each))[0]["Config"]["Env"] for each in self.containers()]
        pods = json.loads(self.cluster.kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        seen += [
            [f"{each['name']}={each['value']}" for each in pod["spec"]["containers"][0]["env"]]
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        ]
        return [each for variables in seen for each in variables if each.startswith("GREETING=")]


@pytest.fixture
def plant_on(tmp_path: Path, docker_engine: DockerEngine, helm_program: Path) -> Iterator[Callable[..., Plant]]:
    plants: list[Plant] = []

    def make(cluster: KubernetesCluster) -> Plant:
        plants.append(Plant(tmp_path, docker_engine, cluster, helm_program))
        return plants[-1]

    yield make
    for plant in plants:
        if left := plant.containers():
            plant.docker("rm", "-f", *left)
        plant.cluster.kubectl("delete", "namespace", plant.namespace, "--ignore-not-found", "--wait=false")


def test_one_deployment_has_the_same_values_in_a_container_and_in_a_pod(
    plant_on: Callable[..., Plant], kubernetes_cluster: KubernetesCluster
) -> None:
    plant = plant_on(kubernetes_cluster)
    for greeting in ("Hello, line {{ device.labels.line }}", 'Good morning: "$HOME", 100 %, line {{ site.name }}'):
        plant.deliver(greeting)
        said = greeting.replace("{{ device.labels.line }}", "7").replace("{{ site.name }}", "south")
        assert plant.environments() == [f"GREETING={said}"] * 2
    plant.deliver(None)
    assert plant.environments() == []


def test_the_same_values_are_what_a_container_and_a_real_pod_say(
    plant_on: Callable[..., Plant], kubernetes_node: KubernetesCluster
) -> None:
    plant = plant_on(kubernetes_node)
    plant.deliver("Hello, line {{ device.labels.line }}")
    assert plant.environments() == ["GREETING=Hello, line 7"] * 2
    pod = plant.cluster.kubectl("get", "pods", "-n", plant.namespace, "-o", "name").strip()
    for said in (plant.docker("logs", *plant.containers()), plant.cluster.kubectl("logs", "-n", plant.namespace, pod)):
        assert said.splitlines()[0] == "Hello, line 7"
    plant.deliver(None)
    assert plant.environments() == []

"""docs/deploy/kubernetes/: the API server takes the manifests; the agent has the rights in them, and no other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from testbed.errors import UnavailableError
from testbed.kubernetes_cluster import KubernetesCluster

from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration

FOLDER = Path(__file__).parents[2] / "docs" / "deploy" / "kubernetes"
PAGE = FOLDER.parents[1] / "cluster.md"
AGENT = "system:serviceaccount:margo-gitops:margo-gitops-agent"
OBJECTS = {
    (each["kind"], each["metadata"]["name"]): each
    for file in FOLDER.rglob("*.yaml")
    for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    if "metadata" in each
}
COMPONENTS = ("definitions", "namespaces", "nodes")
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {0}, labels: {{{1}}}}}\n"
PROGRAM = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "busybox:1"}]}
"""


def rules(kind: str, name: str) -> list[object]:
    return list(OBJECTS[kind, name]["rules"])


def test_a_namespace_and_the_whole_cluster_have_the_same_rights_on_workloads() -> None:
    everywhere = rules("ClusterRole", "margo-gitops-agent-namespaces")
    assert everywhere[:-1] == rules("Role", "margo-gitops-agent")
    assert everywhere[-1] == {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["create", "delete", "patch"]}


def test_no_rule_gives_all_or_lets_the_agent_give_itself_rights() -> None:
    given = [rule for each in OBJECTS.values() for rule in each.get("rules", ())]
    assert len(given) > 10
    for rule in given:
        named = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not named & {"*", "bind", "escalate", "impersonate", "rbac.authorization.k8s.io", "pods/exec", "token"}


def test_the_pod_mounts_what_the_configuration_names() -> None:
    configuration = load_configuration(FOLDER / "overlays/namespace/agent.yaml", Environment())
    pod = OBJECTS["Deployment", "margo-gitops-agent"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = tuple(each["mountPath"] for each in container["volumeMounts"])
    assert configuration.source.http is not None
    assert configuration.health is not None
    assert str(configuration.state_folder).startswith(mounts)
    assert str(configuration.source.http.token_file).startswith(mounts)
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"--uid (\d+)", dockerfile)[1] == str(pod["securityContext"]["runAsUser"])  # type: ignore[index]


@pytest.fixture
def cluster(own_kubernetes_cluster: KubernetesCluster, tmp_path: Path) -> KubernetesCluster:
    """A cluster with the overlay `cluster`, as a person deploys it."""
    shutil.copytree(FOLDER, tmp_path / "copy")
    (tmp_path / "copy/overlays/namespace/trust.json").write_text("{}")
    own_kubernetes_cluster.kubectl("create", "namespace", "margo-gitops")
    secret = ("secret", "generic", "margo-gitops-agent", "--from-literal=token=t", "--from-literal=ca.pem=c")
    own_kubernetes_cluster.kubectl("-n", "margo-gitops", "create", *secret)
    own_kubernetes_cluster.kubectl("apply", "-k", tmp_path / "copy/overlays/cluster")
    return own_kubernetes_cluster


def may(cluster: KubernetesCluster, *asked: str) -> bool:
    """Return whether the API server lets the agent do this."""
    command = [cluster.folder / "bin/kubectl", "auth", "can-i", f"--as={AGENT}", *asked]
    answer = subprocess.run(
        command, env={**cluster.environment, "HOME": str(cluster.folder)}, capture_output=True, text=True
    )
    assert answer.stdout.strip() in ("yes", "no"), answer.stderr
    return answer.stdout.strip() == "yes"


def test_the_api_server_takes_all_and_keeps_the_agent_within_its_bounds(
    cluster: KubernetesCluster, tmp_path: Path
) -> None:
    kubectl = cluster.kubectl
    # Pod Security lets it run, its claim is bound, configuration and keys are there.
    kubectl("-n", "margo-gitops", "rollout", "status", "deployment/margo-gitops-agent", "--timeout=40s")
    configurations = kubectl("-n", "margo-gitops", "get", "configmaps", "-o", "name").split()
    assert any(re.fullmatch("configmap/margo-gitops-agent-[a-z0-9]+", each) for each in configurations)
    assert may(cluster, "get", "nodes")

    # The whole cluster, but nothing of its own namespace, nor of Kubernetes, nor the namespaces of others.
    agent = f"--as={AGENT}"
    for mine in ("yes", "no"):
        label = "org.margo-gitops.device: cell-01" if mine == "yes" else ""
        kubectl("apply", "-f", "-", agent, given=NAMESPACE.format(f"made-{mine}", label))
        kubectl("-n", f"made-{mine}", "apply", "-f", "-", agent, given=PROGRAM)
    kubectl("delete", "namespace", "made-yes", "--wait=false", agent)
    for refused in (
        ("delete", "namespace", "made-no"),
        ("delete", "namespace", "margo"),
        ("delete", "namespace", "margo-gitops"),
        ("-n", "margo-gitops", "delete", "deployment", "margo-gitops-agent"),
        ("-n", "kube-system", "create", "configmap", "x"),
    ):
        with pytest.raises(UnavailableError, match="the agent changes"):
            kubectl(*refused, agent)

    # From outside: a kubeconfig as the page makes it.
    block = re.search(r"<!-- cluster: outside -->\n```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = "set -e\n" + block[1].replace("docs/deploy/kubernetes", "copy")  # type: ignore[index]
    environment = {
        **cluster.environment,
        "HOME": str(cluster.folder),
        "PATH": f"{cluster.folder}/bin:{os.environ['PATH']}",
    }
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    kubectl("--kubeconfig", tmp_path / "kubeconfig", "-n", "margo", "get", "deployments")

    # One namespace: what is left without the components.
    kubectl("delete", "clusterrolebinding", *(f"margo-gitops-agent-{each}" for each in COMPONENTS))
    kubectl("-n", "margo", "apply", "-f", "-", agent, given=PROGRAM)
    for verb in ("create", "delete", "patch"):
        assert may(cluster, verb, "secrets", "-n", "margo")
    for asked in (
        ("get", "secrets", "-n", "margo-gitops"),
        ("get", "secrets", "-n", "default"),
        ("create", "deployments", "-n", "default"),
        ("create", "roles", "-n", "margo"),
        ("create", "pods", "--subresource=exec", "-n", "margo"),
        ("create", "serviceaccounts", "--subresource=token", "-n", "margo"),
        ("create", "namespaces"),
        ("list", "nodes"),
    ):
        assert not may(cluster, *asked), asked

"""What a cluster is and offers: the rules FACTS-1 to FACTS-3 of appliers.kubernetes.facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.kubernetes_cluster import KubernetesCluster

from margo_gitops.appliers.applier import TellsFacts
from margo_gitops.appliers.helm.applier import HelmApplier
from margo_gitops.appliers.kubernetes.applier import KubernetesApplier
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.appliers.kubernetes.facts import OnCluster, cluster_facts, facts_of
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ClusterRefusesAgent

GROUPS: Json = {
    "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1"}, {"groupVersion": "apps/v1beta1"}]}]
}


def node(arch: str = "amd64", taint: str = "", **allocatable: str) -> Json:
    room: dict[str, Json] = {"cpu": "3900m", "memory": "7961Mi", "ephemeral-storage": "47093746742"}
    room |= {name.replace("__", "/").replace("_", "."): value for name, value in allocatable.items()}
    taints: list[Json] = [{"key": taint, "effect": "NoSchedule"}] if taint else []
    return {
        "metadata": {"labels": {"kubernetes.io/arch": arch}},
        "spec": {"taints": taints},
        "status": {"allocatable": room},
    }


def properties_of(*nodes: Json) -> Json:
    return facts_of("v1.36.3", GROUPS, nodes)["properties"]


def test_the_version_and_what_the_server_has_are_labels() -> None:
    labels = facts_of("v1.36.3+k3s1", GROUPS, None)["labels"]
    assert labels == {
        "org.margo-gitops.engine": "kubernetes",
        "org.margo-gitops.kubernetes-version": "1.36.3+k3s1",
        "org.margo-gitops.kubernetes-apis": ["apps/v1", "apps/v1beta1", "v1"],
    }


def test_nodes_are_cpus_and_are_never_added_together() -> None:
    assert properties_of(node(), node(), node("arm64", cpu="2", memory="16384256Ki")) == {
        "supportedRuntimes": ["oci"],
        "cpus": [{"cores": 3.9, "architecture": "amd64"}, {"cores": 2, "architecture": "arm64"}],
        "memory": "16000 Mi",
        "storage": "44912 Mi",
    }


def test_a_node_for_the_cluster_itself_does_not_count() -> None:
    apart = node(taint="node-role.kubernetes.io/control-plane", cpu="64")
    assert properties_of(node(), apart) == properties_of(node(taint="example.com/line"))


def test_gpus_are_those_that_pods_can_have() -> None:
    found = properties_of(node(nvidia_com__gpu="2", amd_com__gpu="0", gpu_intel_com__i915="1"))
    assert isinstance(found, dict)
    assert found["peripherals"] == [
        {"type": "gpu", "manufacturer": "Intel"},
        {"type": "gpu", "manufacturer": "NVIDIA"},
    ]


@pytest.mark.parametrize(
    "wrong", [None, {}, {"groups": "x"}, [{"groups": 1}]], ids=["nothing", "empty", "text", "list"]
)
def test_what_a_server_answers_wrongly_is_nothing(wrong: Json) -> None:
    found = facts_of("", wrong, [None, "x", {"status": {"allocatable": {"cpu": "1e9999999", "memory": "-1"}}}])
    assert found["labels"] == {
        "org.margo-gitops.engine": "kubernetes",
        "org.margo-gitops.kubernetes-apis": ["v1"],
        "org.margo-gitops.kubernetes-nodes": 3,
    }
    assert found["properties"] == {"supportedRuntimes": ["oci"]}


def test_a_real_server_tells_it_and_an_agent_without_the_right_says_nothing_of_the_nodes(
    kubernetes_cluster: KubernetesCluster, kubernetes_namespace: str, tmp_path: Path
) -> None:
    found = cluster_facts(ClusterClient(kubernetes_cluster.kubeconfig))
    labels, properties = found["labels"], found["properties"]
    assert isinstance(labels, dict)
    assert isinstance(properties, dict)
    shown = kubernetes_cluster.kubectl("get", "--raw", "/version")
    assert f'"v{labels["org.margo-gitops.kubernetes-version"]}"' in shown
    assert properties.keys() >= {"cpus", "memory"}
    token = kubernetes_cluster.token("default", kubernetes_namespace)
    weak = kubernetes_cluster.kubeconfig_with(token, tmp_path / "kubeconfig")
    assert cluster_facts(ClusterClient(weak))["properties"] == {"supportedRuntimes": ["oci"]}
    expired = kubernetes_cluster.token("default", kubernetes_namespace, seconds=-120)
    with pytest.raises(ClusterRefusesAgent):
        cluster_facts(ClusterClient(kubernetes_cluster.kubeconfig_with(expired, tmp_path / "expired")))


def test_the_appliers_for_clusters_tell_it() -> None:
    assert all(issubclass(each, OnCluster) for each in (HelmApplier, KubernetesApplier))
    assert isinstance(OnCluster(), TellsFacts)

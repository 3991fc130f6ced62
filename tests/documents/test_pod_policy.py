"""What of Kubernetes objects a device's policy refuses: GUARD-1 to GUARD-7."""

import json

import pytest

from margo_gitops.documents.kubernetes_objects import read_objects
from margo_gitops.documents.pod_policy import refused_by
from margo_gitops.documents.workload_policy import WorkloadPolicy

IMAGE = "registry.example.com/acme/web:1"
RBAC = "rbac.authorization.k8s.io/v1"


def deployment(spec=None, **container):
    pod = {"containers": [{"name": "web", "image": IMAGE, **container}], **(spec or {})}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": pod}}}


def lines(policy, *bodies):
    named = [{**body, "metadata": {"name": f"web{at}", **body.get("metadata", {})}} for at, body in enumerate(bodies)]
    objects = read_objects([(f"{at}.json", json.dumps(body).encode()) for at, body in enumerate(named)])
    return [each.line for each in refused_by(policy, objects)]


def security(**settings):
    return deployment(securityContext=settings)


def mounted(path, **mount):
    volume = {"name": "v", "hostPath": {"path": path}}
    return deployment({"volumes": [volume]}, volumeMounts=[{"name": "v", "mountPath": "/v", **mount}])


REFUSED = {
    "privileged": (security(privileged=True), "privileged: true"),
    "capability": (security(capabilities={"add": ["NET_ADMIN"]}), "capabilities: [NET_ADMIN]"),
    "host-network": (deployment({"hostNetwork": True}), "hostNetwork: true"),
    "host-pid": (deployment({"hostPID": True}), "hostPid: true"),
    "host-ipc": (deployment({"hostIPC": True}), "hostIpc: true"),
    "host-path": (mounted("/etc"), 'hostPaths: ["/etc"]'),
    "host-path-read": (mounted("/etc", readOnly=True), 'hostPaths: ["/etc:ro"]'),
    "engine": (mounted("/run/containerd/containerd.sock"), "engineSocket: true"),
    "k3s": (mounted("/run/k3s"), "engineSocket: true"),
    "gpu": (deployment(resources={"limits": {"nvidia.com/gpu": 1}}), 'devices: ["gpu"]'),
    "unknown-key": (deployment({"runtimeClassName": "kata"}), 'composeKeys: ["pod.runtimeClassName=kata"]'),
    "volume": (deployment({"volumes": [{"name": "v", "nfs": {"server": "nas"}}]}), 'composeKeys: ["pod.volumes.nfs"]'),
    "seccomp": (security(seccompProfile={"type": "Unconfined"}), 'composeKeys: ["pod.seccompProfile=Unconfined"]'),
    "sysctl": (
        deployment({"securityContext": {"sysctls": [{"name": "vm.swappiness", "value": "1"}]}}),
        'composeKeys: ["pod.sysctls=vm.swappiness"]',
    ),
    "cluster-role": (
        {"apiVersion": RBAC, "kind": "ClusterRoleBinding", "roleRef": {"name": "cluster-admin"}},
        "engineSocket: true",
    ),
    "role": (
        {"apiVersion": RBAC, "kind": "Role", "rules": [{"verbs": ["create"], "resources": ["pods"]}]},
        "engineSocket: true",
    ),
    "role-binding": (
        {"apiVersion": RBAC, "kind": "RoleBinding", "roleRef": {"kind": "ClusterRole", "name": "admin"}},
        "engineSocket: true",
    ),
    "webhook": (
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"},
        "engineSocket: true",
    ),
    "cron-job": (
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {"hostNetwork": True}}}}},
        },
        "hostNetwork: true",
    ),
    "volume-of-the-node": (
        {"apiVersion": "v1", "kind": "PersistentVolume", "spec": {"hostPath": {"path": "/srv"}}},
        'hostPaths: ["/srv"]',
    ),
}


TAKEN_FOR_OTHERS = {
    "namespace-of-the-cluster": {"namespace": "kube-system"},
    "release-of-helm": {"labels": {"owner": "helm", "name": "other", "status": "deployed"}},
    "revision-of-helm": {"name": "sh.helm.release.v1.other.v7"},
    "device": {"labels": {"org.margo-gitops.device": "press-07"}},
    "set": {"labels": {"applyset.kubernetes.io/id": "applyset-x-v1"}},
}
REFUSED |= {
    name: ({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}, "engineSocket: true")
    for name, metadata in TAKEN_FOR_OTHERS.items()
}


@pytest.mark.parametrize(("body", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_the_devices_needs_its_line(body, line):
    """GUARD-1, GUARD-2, GUARD-5, GUARD-7."""
    found = lines(WorkloadPolicy(), body)
    assert f"workloads.{line}" in found
    assert lines(WorkloadPolicy(unrestricted=True), body) == []


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (WorkloadPolicy(privileged=True), "privileged"),
        (WorkloadPolicy(capabilities=("NET_ADMIN",)), "capability"),
        (WorkloadPolicy(host_network=True), "cron-job"),
        (WorkloadPolicy(host_paths=("/etc:ro",)), "host-path-read"),
        (WorkloadPolicy(devices=("gpu",)), "gpu"),
        (WorkloadPolicy(compose_keys=("pod.volumes.nfs",)), "volume"),
        (WorkloadPolicy(engine_socket=True), "cluster-role"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_line_allows_it(policy, name):
    assert lines(policy, REFUSED[name][0]) == []


def test_a_namespace_of_the_cluster_counts_where_an_object_names_none():
    """GUARD-7."""
    objects = read_objects([("a.yaml", b"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")])
    assert list(refused_by(WorkloadPolicy(), objects, "kube-system"))
    assert not list(refused_by(WorkloadPolicy(), objects, "line-3"))


def test_what_most_charts_need_is_allowed():
    pod = {
        "serviceAccountName": "web",
        "securityContext": {"runAsNonRoot": True, "fsGroup": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "tmp", "emptyDir": {}}],
        "initContainers": [{"name": "init", "image": IMAGE}],
        "tolerations": [{"operator": "Exists"}],
    }
    web = deployment(
        pod,
        ports=[{"containerPort": 80}],
        resources={"limits": {"cpu": "1", "memory": "1Gi"}},
        securityContext={"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "privileged": False},
        livenessProbe={"httpGet": {"path": "/", "port": 80}},
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "update"]}
    assert not lines(
        WorkloadPolicy(),
        web,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
        },
        {"apiVersion": RBAC, "kind": "Role", "rules": [leases, {"verbs": ["list"], "resources": ["pods"]}]},
        {"apiVersion": RBAC, "kind": "RoleBinding", "roleRef": {"kind": "Role", "name": "web"}},
    )


def test_images_and_ports_are_judged_as_compose_judges_them():
    strict = WorkloadPolicy(registries=("ghcr.io",), require_digest=True, host_ports=("8000-8999",))
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}
    assert lines(strict, deployment(ports=[{"hostPort": 502}]), service) == [
        'workloads.registries: ["registry.example.com/acme/web"]',
        "workloads.requireDigest: false",
        'workloads.hostPorts: ["502"]',
        'workloads.hostPorts: ["80"]',
    ]

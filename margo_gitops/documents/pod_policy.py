"""What of Kubernetes objects a device's policy refuses: their pods, and the rights that they give. Pure.

GUARD-1 to GUARD-4 of `compose_policy` hold here too. In addition:

GUARD-5  Rights in the cluster can start any pod, so they count as the engine's socket: cluster roles, webhooks and
         admission policies, and roles that do more than read, or change configuration, leases and events.
GUARD-6  Pods of other kinds, which an operator makes, are not seen here: the cluster's own admission judges them.
GUARD-7  What is in a namespace of the cluster itself (`kube-…`), whose accounts may do anything, counts like GUARD-5.
         So does what looks like a record of helm or of the agent: both run and delete what their records say.

Source: Kubernetes API, PodSpec and Container; the Pod Security Standards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from margo_gitops.documents.content_places import place_of
from margo_gitops.documents.kubernetes_objects import KubernetesObject, list_at, mapping_at, pod_path
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_judge import (
    ENGINE_SOCKETS,
    Judge,
    Path,
    Refused,
    Surroundings,
    items,
    listed,
    refused,
    text_of,
)
from margo_gitops.documents.workload_policy import WorkloadPolicy

SOCKETS: Final = (
    *ENGINE_SOCKETS,
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/var/lib/kubelet/pods",
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POD: Final = _names("""
    activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases
    hostUsers hostname hostnameOverride imagePullSecrets nodeName nodeSelector os overhead preemptionPolicy priority
    priorityClassName readinessGates resources restartPolicy schedulerName schedulingGates serviceAccount
    serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations
    topologySpreadConstraints
""")
_CONTAINER: Final = _names("""
    args command env envFrom imagePullPolicy lifecycle livenessProbe name readinessProbe resizePolicy resources
    restartPolicy restartPolicyRules startupProbe stdin stdinOnce targetContainerName terminationMessagePath
    terminationMessagePolicy tty volumeDevices workingDir
""")
_SECURITY: Final = _names("""
    allowPrivilegeEscalation fsGroup fsGroupChangePolicy readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser
    supplementalGroups supplementalGroupsPolicy
""")
_VOLUMES: Final = _names("configMap downwardAPI emptyDir ephemeral name persistentVolumeClaim projected secret")
_SYSCTLS: Final = ("net.", "kernel.msg", "kernel.sem", "kernel.shm")
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
_SWITCHES: Final = {"hostNetwork": "hostNetwork", "hostPID": "hostPid", "hostIPC": "hostIpc"}
_OWNERS: Final = frozenset(
    {
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("apiregistration.k8s.io", "APIService"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("node.k8s.io", "RuntimeClass"),
        ("", "Node"),
    }
)
_ADMISSION: Final = "admissionregistration.k8s.io"
_CLUSTERS_OWN: Final = "kube-"
_RECORDS: Final = ("org.margo-gitops.", "applyset.kubernetes.io/")
_READS: Final = _names("get list watch")
_HARMLESS_KINDS: Final = _names("configmaps events leases")


def refused_by(policy: WorkloadPolicy, objects: Iterable[KubernetesObject], namespace: str = "") -> Iterator[Refused]:
    """Yield each part of objects that a policy refuses; nothing where it allows them.

    Args:
        namespace: of objects that name none.
    """
    if not policy.unrestricted:
        judge = _Judge(policy, Surroundings(sockets=SOCKETS))
        for each in objects:
            yield from judge.object((each.kind, each.name), each)
            yield from judge.place((each.kind, each.name), each, each.namespace or namespace)


class _Judge(Judge):
    """Has a method for each kind of thing that objects may ask for."""

    def object(self, path: Path, obj: KubernetesObject) -> Iterator[Refused]:
        place = pod_path(obj)
        if place is not None:
            yield from self.pod((*path, *place), mapping_at(obj.body, *place))
        spec = mapping_at(obj.body, "spec")
        if (obj.group, obj.kind) in _OWNERS or obj.group == _ADMISSION:
            yield from self.switch(path, "", "engineSocket")
        elif (obj.group, obj.kind) == ("rbac.authorization.k8s.io", "Role"):
            yield from self.role((*path, "rules"), list_at(obj.body, "rules"))
        elif (obj.group, obj.kind) == ("rbac.authorization.k8s.io", "RoleBinding"):
            role = mapping_at(obj.body, "roleRef")
            if role.get("kind") != "Role":
                yield from self.switch((*path, "roleRef"), role.get("name"), "engineSocket")
        elif (obj.group, obj.kind) == ("", "Service"):
            yield from self.service((*path, "spec"), spec)
        elif (obj.group, obj.kind) == ("", "PersistentVolume"):
            for kind in ("hostPath", "local"):
                if kind in spec:
                    source = text_of(mapping_at(spec, kind).get("path"))
                    yield from self.host_path((*path, "spec", kind), source, writable=True)

    def place(self, path: Path, obj: KubernetesObject, namespace: str) -> Iterator[Refused]:
        """Judge where an object is, and for whose it is taken (GUARD-7)."""
        if namespace.startswith(_CLUSTERS_OWN):
            yield from self.switch((*path, "namespace"), namespace, "engineSocket")
        labels = mapping_at(obj.body, "metadata", "labels")
        if (labels.get("owner") == "helm" and obj.kind in ("Secret", "ConfigMap")) or obj.name.startswith("sh.helm."):
            yield from self.switch(path, "a release of helm", "engineSocket")
        for name in labels:
            if name.startswith(_RECORDS):
                yield from self.switch((*path, "labels", name), labels[name], "engineSocket")

    def pod(self, path: Path, spec: Mapping[str, Json]) -> Iterator[Refused]:
        for key, value in spec.items():
            at = (*path, key)
            if key in _CONTAINERS:
                for place, each in listed(at, value):
                    yield from self.container(place, each)
            elif key in _SWITCHES:
                if value:
                    yield from self.switch(at, value, _SWITCHES[key])
            elif key == "securityContext":
                yield from self.security(at, value)
            elif key == "volumes":
                yield from self.volumes(at, value, spec)
            elif key not in _POD:
                yield from self.key(at, value, f"pod.{key}")

    def container(self, path: Path, container: Json) -> Iterator[Refused]:
        for key, value in items(container):
            at = (*path, key)
            if key == "image":
                yield from self.image(at, value)
            elif key == "securityContext":
                yield from self.security(at, value)
            elif key == "ports":
                for place, each in listed(at, value):
                    yield from self.port((*place, "hostPort"), mapping_at(each).get("hostPort"))
            elif key == "volumeMounts":
                for place, each in listed(at, value):
                    if (shared := mapping_at(each).get("mountPropagation")) != "None":
                        yield from self.key((*place, "mountPropagation"), shared, "pod.mountPropagation")
            elif key not in _CONTAINER:
                yield from self.key(at, value, f"pod.{key}")
        for name in mapping_at(container, "resources", "limits"):
            device = "gpu" if name.endswith("/gpu") else f"{name}=*"
            if "/" in name and not self.policy.allows_device(device):
                yield refused((*path, "resources", "limits", name), "", f"devices: [{json.dumps(device)}]")

    def security(self, path: Path, value: Json) -> Iterator[Refused]:
        for key, each in items(value):
            at = (*path, key)
            if key == "privileged":
                if each:
                    yield from self.switch(at, each, "privileged")
            elif key == "capabilities":
                yield from self.capabilities((*at, "add"), mapping_at(each).get("add"))
            elif key == "sysctls":
                for place, entry in listed(at, each):
                    if not (name := text_of(mapping_at(entry).get("name"))).startswith(_SYSCTLS):
                        yield from self.key(place, name, "pod.sysctls")
            elif key in ("seccompProfile", "appArmorProfile"):
                if (kind := mapping_at(each).get("type")) != "RuntimeDefault":
                    yield from self.key((*at, "type"), kind, f"pod.{key}")
            elif key not in _SECURITY and not (key == "procMount" and each == "Default"):
                yield from self.key(at, each, f"pod.{key}")

    def capabilities(self, path: Path, value: Json) -> Iterator[Refused]:
        for at, name in listed(path, value):
            if not self.policy.allows_capability(text_of(name)):
                yield refused(at, name, f"capabilities: [{text_of(name).upper().removeprefix('CAP_')}]")

    def volumes(self, path: Path, volumes: Json, spec: Mapping[str, Json]) -> Iterator[Refused]:
        for at, volume in listed(path, volumes):
            for key, value in items(volume):
                if key == "hostPath":
                    source = text_of(mapping_at(value).get("path"))
                    name = mapping_at(volume).get("name")
                    yield from self.host_path((*at, key), source, writable=_is_written(spec, name))
                elif key == "image":
                    yield from self.image((*at, key), mapping_at(value).get("reference"))
                elif key not in _VOLUMES:
                    yield from self.key((*at, key), value, f"pod.volumes.{key}")

    def image(self, path: Path, value: Json) -> Iterator[Refused]:
        name = text_of(value)
        if not self.policy.allows_place(name):
            yield refused(path, value, f"registries: [{json.dumps(place_of(name))}]")
        if not self.policy.allows_name(name):
            yield refused(path, value, "requireDigest: false")

    def service(self, path: Path, spec: Mapping[str, Json]) -> Iterator[Refused]:
        """Judge what a service opens on the device; small clusters open the ports of a load balancer there."""
        for at, each in listed((*path, "ports"), spec.get("ports")):
            keys = ("nodePort", "port") if spec.get("type") == "LoadBalancer" else ("nodePort",)
            for key in keys:
                yield from self.port((*at, key), mapping_at(each).get(key))
        yield from self.key((*path, "externalIPs"), spec.get("externalIPs"), "service.externalIPs")

    def port(self, path: Path, value: Json) -> Iterator[Refused]:
        port = text_of(value)
        if port not in ("", "0") and not self.policy.allows_port(port):
            yield refused(path, port, f"hostPorts: [{json.dumps(port)}]")

    def role(self, path: Path, rules: list[Json]) -> Iterator[Refused]:
        for at, rule in listed(path, rules):
            verbs = {text_of(each) for each in list_at(rule, "verbs")}
            kinds = {text_of(each) for each in list_at(rule, "resources")}
            if not verbs <= _READS and not kinds <= _HARMLESS_KINDS:
                yield from self.switch(at, ", ".join(sorted(kinds)), "engineSocket")


def _is_written(spec: Mapping[str, Json], volume: Json) -> bool:
    """Return whether a container may write to a volume."""
    containers = [each for key in _CONTAINERS for each in list_at(dict(spec), key)]
    mounts = [mapping_at(mount) for each in containers for mount in list_at(each, "volumeMounts")]
    return any(mount.get("name") == volume and mount.get("readOnly") is not True for mount in mounts)

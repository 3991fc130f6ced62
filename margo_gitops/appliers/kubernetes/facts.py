"""What a cluster is and offers, as a part of a Margo capabilities document.

FACTS-1  A node is one CPU of the device, with what pods may have of it (`allocatable`): a pod runs on one node. Equal
         nodes are one entry. Memory and storage are those of the node that has most.
FACTS-2  Nodes that pods do not come to by themselves (a taint of a role) do not count.
FACTS-3  An agent that may not see the nodes says nothing of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.appliers.machine import amount, cpu
from margo_gitops.documents.capabilities import FOUND_LABELS
from margo_gitops.documents.kubernetes_objects import list_at, mapping_at, text_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ClusterRefusesAgent

_UNITS: Final = {"m": Decimal("0.001"), "": Decimal(1)} | {
    f"{prefix}{binary}": Decimal(1024 if binary else 1000) ** power
    for power, prefix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
    for binary in ("", "i")
}
_QUANTITY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([mkKMGTPE]?i?)")
_GPUS: Final = {"nvidia.com": "NVIDIA", "amd.com": "AMD", "gpu.intel.com": "Intel"}
_ROLE: Final = "node-role.kubernetes.io/"


class OnCluster:
    """An applier for a cluster: it tells what the cluster is and offers."""

    client: ClusterClient

    def facts(self) -> Mapping[str, Json]:
        """Return that, as a part of a capabilities document (ApplyError: the API server does not answer)."""
        return cluster_facts(self.client)


def cluster_facts(client: ClusterClient) -> dict[str, Json]:
    """Return what a cluster is and offers, as far as the agent may see it.

    Raises:
        ApplyError: the API server does not answer, or does not know the agent.
    """
    version = text_at(client.ask("/version"), "gitVersion")
    groups = client.ask("/apis")
    try:
        nodes: Sequence[Json] | None = client.list_objects(client.resource("v1", "Node"))
    except ClusterRefusesAgent:
        nodes = None
    return facts_of(version, groups, nodes)


def facts_of(version: str, groups: Json, nodes: Iterable[Json] | None) -> dict[str, Json]:
    """Return the facts in what a server answers.

    Args:
        version: its `gitVersion`.
        groups: its APIGroupList.
        nodes: its Nodes; None: the agent may not see them.
    """
    served = {
        text_at(each, "groupVersion") for group in list_at(groups, "groups") for each in list_at(group, "versions")
    }
    apis: list[Json] = [each for each in sorted({"v1", *served}) if each]
    labels: dict[str, Json] = {"engine": "kubernetes", "kubernetes-version": version.removeprefix("v")}
    labels["kubernetes-apis"] = apis
    properties: dict[str, Json] = {"supportedRuntimes": ["oci"]}
    counted = [node for node in nodes or () if not _is_apart(node)]
    if counted:
        labels["kubernetes-nodes"] = len(counted)
        rooms = [mapping_at(node, "status", "allocatable") for node in counted]
        kinds = [text_at(node, "metadata", "labels", "kubernetes.io/arch") for node in counted]
        cpus = {(_cores(room), kind) for room, kind in zip(rooms, kinds, strict=True)}
        found: list[Json] = [cpu(cores, kind) for cores, kind in sorted(cpus, reverse=True) if cores]
        properties |= {"cpus": found} if found else {}
        for name, resource in (("memory", "memory"), ("storage", "ephemeral-storage")):
            if most := max(_quantity(room.get(resource)) for room in rooms):
                properties[name] = amount(int(most))
        if gpus := _gpus(rooms):
            properties["peripherals"] = gpus
    return {
        "properties": properties,
        "labels": {f"{FOUND_LABELS}{name}": each for name, each in labels.items() if each},
    }


def _is_apart(node: Json) -> bool:
    """Return whether pods come to a node only if they say so (FACTS-2)."""
    taints = list_at(node, "spec", "taints")
    return any(
        text_at(each, "key").startswith(_ROLE) and text_at(each, "effect") != "PreferNoSchedule" for each in taints
    )


def _gpus(rooms: Iterable[Mapping[str, Json]]) -> list[Json]:
    """Return a GPU for each maker of which a node has some for pods."""
    makers = {
        maker
        for room in rooms
        for resource, count in room.items()
        if (maker := _GPUS.get(resource.partition("/")[0])) and _quantity(count)
    }
    return [{"type": "gpu", "manufacturer": maker} for maker in sorted(makers)]


def _cores(room: Mapping[str, Json]) -> float:
    cores = _quantity(room.get("cpu"))
    return int(cores) if cores == int(cores) else float(cores)


def _quantity(value: Json) -> Decimal:
    """Return an amount as Kubernetes writes it; 0 for anything else."""
    match = _QUANTITY.fullmatch(str(value))
    return Decimal(match[1]) * _UNITS[match[2].replace("Ki", "ki")] if match else Decimal(0)

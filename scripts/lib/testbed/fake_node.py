"""A node that runs nothing: it binds each pod to itself and says that its containers run.

An image whose name has one of these words does not run well, which is what tests of failed updates need:

1. `bad`: it cannot be pulled; the pod stays Pending (ImagePullBackOff).
2. `crash`: it ends with status 1; again and again (CrashLoopBackOff), or for good in a pod that is not restarted.
3. `unready`: it runs and is never ready.

A pod that is not always restarted (a Job's) completes at once. A claim of a volume gets one, a Service of type
LoadBalancer gets an address.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.kubernetes_cluster import NODE
from testbed.processes import ARCHITECTURE

Object = Mapping[str, Any]

_CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"}
_PATIENCE = 0.2  # seconds, until it asks again a server that is away
_WATCH = 240  # seconds


class Server:
    """The API server, for one thread."""

    def __init__(self, kubeconfig: Path) -> None:
        known = json.loads(kubeconfig.read_text(encoding="utf-8"))
        self._host = urllib.parse.urlsplit(known["clusters"][0]["cluster"]["server"]).netloc
        self._trust = ssl.create_default_context(cafile=known["clusters"][0]["cluster"]["certificate-authority"])
        self._token = known["users"][0]["user"]["token"]
        self._connection = self._connect()

    def send(self, method: str, path: str, body: Object) -> None:
        """Send a change; what the server says to it does not matter: the next event tells how things are."""
        patch = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            self._connection.request(method, path, json.dumps(body), self._headers(patch))
            self._connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def events(self, path: str) -> Iterator[tuple[str, Object]]:
        """Yield what is there and what happens to it, until the server ends the answer."""
        connection = self._connect()
        try:
            connection.request("GET", f"{path}?watch=1&timeoutSeconds={_WATCH}", headers=self._headers())
            answer = connection.getresponse()
            while line := answer.readline():
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, context=self._trust, timeout=_WATCH + 30)

    def _headers(self, content_type: str = "application/json") -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}


def run_pod(server: Server, event: str, pod: Object) -> None:
    """Bind a pod, say what its containers do, let it go when it is deleted."""
    if event not in {"ADDED", "MODIFIED"}:
        return
    path = _path("api/v1", "pods", pod)
    if "deletionTimestamp" in pod["metadata"]:
        # A pod of a StatefulSet has the same name again: only this one.
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        server.send("DELETE", path, options)
        return
    if not pod["spec"].get("nodeName"):
        name = {"name": pod["metadata"]["name"]}
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        server.send("POST", f"{path}/binding", {"kind": "Binding", "metadata": name, "target": target})
        return  # the event of the binding comes next
    if pod["spec"]["nodeName"] == NODE and (status := status_of(pod, _now())):
        server.send("PATCH", f"{path}/status", {"status": status})


def status_of(pod: Object, now: str) -> Object | None:
    """Return the status of a pod that it does not have yet, or None.

    Args:
        pod: as the API server knows it.
        now: the time, as Kubernetes writes it.
    """
    containers = [
        _container(each, pod["spec"].get("restartPolicy", "Always"), now) for each in pod["spec"]["containers"]
    ]
    states = [next(iter(each["state"])) for each in containers]
    if all(state == "terminated" for state in states):
        failed = any(each["state"]["terminated"]["exitCode"] for each in containers)
        phase = "Failed" if failed else "Succeeded"
    else:
        pulled = all(each["imageID"] for each in containers)
        phase = "Running" if pulled else "Pending"
    known = pod.get("status", {})
    before = [(each["image"], *each["state"]) for each in known.get("containerStatuses", [])]
    if known.get("phase") == phase and before == [(each["image"], *each["state"]) for each in containers]:
        return None

    ready = all(each["ready"] for each in containers)
    truths = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    reason = {"reason": "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"}
    return {
        "phase": phase,
        "startTime": known.get("startTime", now),
        "podIP": "10.1.0.1",
        "podIPs": [{"ip": "10.1.0.1"}],
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
        "containerStatuses": containers,
        "initContainerStatuses": [
            _container({**each, "image": "done"}, "Never", now) | {"image": each["image"], "ready": True}
            for each in pod["spec"].get("initContainers", [])
        ],
        "conditions": [
            {"type": name, "status": str(true), "lastTransitionTime": now} | ({} if true else reason)
            for name, true in truths.items()
        ],
    }


def _container(container: Object, restart: str, now: str) -> dict[str, Any]:
    image = container["image"]
    crashes = "crash" in image
    status = {"name": container["name"], "image": image, "imageID": f"testbed/{image}", "restartCount": 0}
    state: Object
    if "bad" in image:
        status["imageID"] = ""
        state = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}
    elif restart == "Never" or (restart == "OnFailure" and not crashes):
        ended = {"exitCode": int(crashes), "reason": "Error" if crashes else "Completed"}
        state = {"terminated": {**ended, "startedAt": now, "finishedAt": now}}
    elif crashes:
        status["restartCount"] = 3
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    else:
        state = {"running": {"startedAt": now}}
    runs = "running" in state
    return {**status, "state": state, "started": runs, "ready": runs and "unready" not in image}


def give_volume(server: Server, event: str, claim: Object) -> None:
    """Make a volume for a claim; remove it with the claim."""
    name = f"claim-{claim['metadata']['uid']}"
    if event == "DELETED":
        server.send("DELETE", f"/api/v1/persistentvolumes/{name}", {})
    elif event == "ADDED" and not claim["spec"].get("volumeName"):
        of = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
        volume = {
            "accessModes": claim["spec"]["accessModes"],
            "capacity": claim["spec"]["resources"]["requests"],
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **of},
            "hostPath": {"path": f"/nowhere/{name}"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": claim["spec"].get("storageClassName", ""),
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
        }
        server.send("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": volume})


def give_address(server: Server, event: str, service: Object) -> None:
    """Give a load balancer its address."""
    if event == "DELETED" or service["spec"].get("type") != "LoadBalancer" or service["status"]["loadBalancer"]:
        return
    given = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}}}
    server.send("PATCH", f"{_path('api/v1', 'services', service)}/status", given)


def follow(kubeconfig: Path, path: str, act: Callable[[Server, str, Object], None]) -> None:
    """Act on all that happens to the objects of a kind, for as long as this process lives."""
    while True:
        try:
            server = Server(kubeconfig)
            for event, thing in server.events(path):
                if event == "ERROR":
                    break
                act(server, event, thing)
        except (OSError, http.client.HTTPException, ValueError):
            time.sleep(_PATIENCE)


def main(kubeconfig: Path) -> None:
    """Be the node of a cluster."""
    server = Server(kubeconfig)
    server.send("POST", "/api/v1/nodes", {"metadata": {"name": NODE, "labels": {"kubernetes.io/arch": ARCHITECTURE}}})
    condition = {"type": "Ready", "status": "True", "reason": "Testbed", "lastTransitionTime": _now()}
    information = {"architecture": ARCHITECTURE, "operatingSystem": "linux", "kubeletVersion": "v0.0.0-testbed"}
    status = {"conditions": [condition], "capacity": _CAPACITY, "allocatable": _CAPACITY, "nodeInfo": information}
    server.send("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status})
    followed = {"pods": run_pod, "persistentvolumeclaims": give_volume, "services": give_address}
    threads = [
        threading.Thread(target=follow, args=(kubeconfig, f"/api/v1/{kind}", act)) for kind, act in followed.items()
    ]
    for thread in threads:
        thread.start()


def _path(group: str, kind: str, thing: Object) -> str:
    return f"/{group}/namespaces/{thing['metadata']['namespace']}/{kind}/{thing['metadata']['name']}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

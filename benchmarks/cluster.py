"""What it costs to look after the objects of a cluster: the client, and a look each minute against watches.

A namespace has `COMPONENTS` components, each with a Deployment, a Service and a ConfigMap, and nothing happens in it.
A look lists each kind by the agent's label, in full or only the metadata. A watch is one connection for each kind,
with bookmarks, as a controller has it; the server ends it after 30 to 60 minutes, and it is made again from its
resourceVersion. Bytes are answers without their headers.

Usage: python benchmarks/cluster.py [SECONDS]        default: 180, in which the watches are counted
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "scripts" / "lib")]

from testbed.parts import KUBERNETES, using  # noqa: E402
from testbed.places import state_folder  # noqa: E402

from margo_gitops.appliers.kubernetes.client import ClusterClient, Resource  # noqa: E402

COMPONENTS = 10
NAMESPACE = "margo-gitops-benchmark"
LABEL = "org.margo-gitops.device"
HOUR = 3600
CLIENT = """
import resource, sys, time
from pathlib import Path
def memory(): return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
import margo_gitops.appliers.kubernetes.client as client
begin, before, modules = time.process_time(), memory(), len(sys.modules)
client.ClusterClient(Path(sys.argv[1])).ask("/version")
print(f"{memory() - before:.0f} MB, {time.process_time() - begin:.2f} s of CPU, {len(sys.modules) - modules} modules")
"""
OBJECTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{0}, labels: {{{1}: press-01}}}}
spec:
  selector: {{matchLabels: {{app: web-{0}}}}}
  template:
    metadata: {{labels: {{app: web-{0}}}}}
    spec: {{containers: [{{name: web, image: "busybox:1", ports: [{{containerPort: 80}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web-{0}, labels: {{{1}: press-01}}}}
spec: {{selector: {{app: web-{0}}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: web-{0}, labels: {{{1}: press-01}}}}
data: {{settings: "{2}"}}
---
"""


def main() -> None:
    """Measure and print."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 180
    with using(KUBERNETES, state_folder()) as cluster:
        for _ in range(2):  # the first one reads its modules from the disk
            command = [sys.executable, "-c", CLIENT, str(cluster.kubeconfig)]
            client = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(f"client, first request: {client}")
        cluster.kubectl("create", "namespace", NAMESPACE)
        try:
            given = "".join(OBJECTS.format(number, LABEL, "x" * 500) for number in range(COMPONENTS))
            cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", given=given)
            cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Available", "deployments", "--all")
            measure(ClusterClient(cluster.kubeconfig), seconds)
        finally:
            cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def measure(client: ClusterClient, seconds: int) -> None:
    """Measure looks and watches."""
    kinds = [client.resource("apps/v1", "Deployment"), client.resource("v1", "Service")]
    kinds.append(client.resource("v1", "ConfigMap"))
    for how, metadata_only in (("a look each minute", False), ("the same, only metadata", True)):
        before = client.requests, client.received
        for kind in kinds:
            client.list_objects(kind, NAMESPACE, selector=LABEL, metadata_only=metadata_only)
        requests, received = client.requests - before[0], client.received - before[1]
        show(how, requests * 60, received * 60)
    counted: list[int] = []
    threads = [threading.Thread(target=watch, args=(client, kind, seconds, counted)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Made again once or twice in an hour, from the resourceVersion of the last bookmark.
    show(f"watches, from {seconds} s", 2 * len(kinds), round(sum(counted) * HOUR / seconds))


def watch(client: ClusterClient, kind: Resource, seconds: int, counted: list[int]) -> None:
    """Count what a watch brings while nothing happens."""
    newest = client.ask(kind.path(NAMESPACE), query={"labelSelector": LABEL, "limit": "1"})
    version = json.loads(json.dumps(newest))["metadata"]["resourceVersion"]
    query = f"labelSelector={LABEL}&watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}"
    api = client._connected()  # noqa: SLF001
    target = f"{api.configuration.host}{kind.path(NAMESPACE)}?{query}"
    headers: dict[str, str] = {"Accept": "application/json"}
    api.update_params_for_auth(headers, [], ["BearerToken"], "", "GET", None)
    response = api.rest_client.pool_manager.request("GET", target, headers=headers, preload_content=False)
    counted.append(sum(map(len, response.stream())))


def show(how: str, requests: int, received: int) -> None:
    """Print a row: what an hour takes."""
    print(f"{how:<26} {requests:>5} requests/h {received / 1000:>8.0f} kB/h")


if __name__ == "__main__":
    main()

"""A proxy before an API server whose faults break requests of a client."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.kubernetes_cluster import KubernetesCluster

from support.faulty_http import Answer, FaultyServer, Request, listening

_PASSED = ("authorization", "content-type", "accept")


@dataclass(kw_only=True)
class KubernetesProxy(FaultyServer):
    """Answers what a cluster answers; a watch ends after a second.

    Attributes:
        early: answer instead of the cluster, or return None to let the request through; `faults` come after it.
        reached: what the cluster got.
    """

    cluster: KubernetesCluster
    kubeconfig: Path
    early: list[Callable[[Request], Answer | None]] = field(default_factory=list)
    reached: list[Request] = field(default_factory=list)

    def _backend(self, request: Request) -> Answer:
        for early in self.early:
            if answer := early(request):
                return answer
        path = re.sub(r"timeoutSeconds=\d+", "timeoutSeconds=1", request.path)
        context = ssl.create_default_context(cafile=str(self.cluster.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", self.cluster.port, context=context, timeout=30)
        try:
            headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
            connection.request(request.method, path, request.body or None, headers)
            got = connection.getresponse()
            self.reached.append(request)
            kept = [(name, value) for name, value in got.getheaders() if name in ("Content-Type", "Retry-After")]
            return Answer(got.status, kept, got.read())
        finally:
            connection.close()


@contextmanager
def kubernetes_proxy(cluster: KubernetesCluster, folder: Path) -> Iterator[KubernetesProxy]:
    """Yield a proxy, with a kubeconfig that leads to it."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cluster.folder / "server.pem", cluster.folder / "server.key")
    proxy = KubernetesProxy(cluster=cluster, kubeconfig=folder / "kubeconfig-of-proxy", tls=tls)
    with listening(proxy):
        text = cluster.kubeconfig.read_text(encoding="utf-8")
        proxy.kubeconfig.write_text(text.replace(cluster.url, proxy.url("").rstrip("/")), encoding="utf-8")
        yield proxy

"""A Kubernetes cluster on the loopback: etcd, API server, controllers, and a node that only says it runs pods.

1. The certificates, the accounts and all state are in one folder; another cluster has another folder (`start_cluster`).
2. Access is by RBAC; the kubeconfig is of a user who may do everything.
3. The node is testbed.fake_node, which says what pods, volumes and load balancers do on it.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from testbed import processes
from testbed.certificates import make_certificates
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.go_programs import KUBERNETES, build_kubernetes, go_program
from testbed.packages import require
from testbed.processes import SEARCH_PATH, run

NODE = "testbed"
_SERVER = "kube-apiserver"
_CONTROLLERS = "kube-controller-manager"
_FAKE_NODE = "fake-node"
_PROCESSES = (_CONTROLLERS, _SERVER, "etcd")
_ISSUER = "https://kubernetes.default.svc"
_ATTEMPTS = 5
# Those that a cloud, or a node that could be lost, would need.
_LEFT_OUT = ("cloud-node-lifecycle", "node-ipam", "node-lifecycle", "node-route", "service-lb")


@dataclass(frozen=True, slots=True)
class KubernetesCluster:
    """A running cluster.

    Attributes:
        folder: its state.
        program: the parts of Kubernetes, of which one is named by the first argument.
        port: of the API server, on 127.0.0.1.
        store_ports: of etcd, for clients and for peers.
    """

    folder: Path
    program: Path
    port: int
    store_ports: tuple[int, int]

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig of a user who may do everything; the context is `testbed`."""
        return self.folder / "kubeconfig"

    @property
    def url(self) -> str:
        """Return the URL of the API server."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """Return the certificate of the authority that signed the API server's."""
        return self.folder / "authority.pem"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what kubectl and helm need."""
        return {"PATH": f"{self.folder / 'bin'}:{SEARCH_PATH}", "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str | Path, given: str = "") -> str:
        """Return what kubectl prints, as the user who may do everything (UnavailableError: it fails).

        Args:
            arguments: of kubectl.
            given: its standard input, for `-f -`.
        """
        environment = {**self.environment, "HOME": str(self.folder)}
        return run([self.program, "kubectl", *arguments], environment=environment, content=given.encode(), seconds=60)

    def token(self, account: str = "default", namespace: str = "default", *, seconds: int = 3600) -> str:
        """Return a token of a service account, as the API server signs them.

        Args:
            account: its name.
            namespace: of the account.
            seconds: how long it is valid; the API server takes it a minute longer, so -120 is one that expired.
        """
        identity = self.kubectl("get", "serviceaccount", account, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
        now = int(time.time())
        claims = {
            "iss": _ISSUER,
            "aud": [_ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now + min(seconds, 0) - 60,
            "nbf": now + min(seconds, 0) - 60,
            "exp": now + seconds,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": identity}},
        }
        signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
        to_sign, signature = self.folder / secrets.token_hex(8), self.folder / secrets.token_hex(8)
        to_sign.write_bytes(signed)
        run(["openssl", "dgst", "-sha256", "-sign", self.folder / "accounts.key", "-out", signature, to_sign])
        token = b".".join([signed, _base64(signature.read_bytes())]).decode("ascii")
        for file in (to_sign, signature):
            file.unlink()
        return token

    def kubeconfig_with(self, token: str, file: Path, *, namespace: str = "default") -> Path:
        """Write a kubeconfig for the owner of a token, and return it."""
        return _write_kubeconfig(self, token, file, namespace=namespace)

    def start(
        self,
        name: str,
        settings: Mapping[str, object],
        *,
        before: Sequence[str | Path] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start a part of Kubernetes for this cluster.

        Args:
            name: of the part, and of its log and pid file.
            settings: its options.
            before: a command that runs the command after it.
            environment: in addition.
        """
        arguments = [*before, self.program, name, *(f"--{key}={value}" for key, value in settings.items())]
        known = {"PATH": SEARCH_PATH, "HOME": str(self.folder), **environment}
        processes.start(name, arguments, self.folder, known)

    def start_server(self) -> None:
        """Start the API server again, on its port, and wait until it is ready (UnavailableError: it is not)."""
        _start_server(self)
        if not _is_ready(self, 60):
            raise UnavailableError(f"no API server:\n    {_said(self, _SERVER)}", "run it by hand to see why")

    def stop_server(self) -> None:
        """Stop the API server only, as for an upgrade."""
        processes.stop(_SERVER, self.folder)

    def kill_server(self) -> None:
        """Kill the API server only, without asking it."""
        process = processes.find(_SERVER, self.folder)
        processes.kill([process] if process else [])


def find_kubernetes(state: Path) -> KubernetesCluster | None:
    """Return the testbed's cluster if it runs."""
    return find_cluster(state / "kubernetes", (_FAKE_NODE,))


def start_kubernetes(state: Path) -> KubernetesCluster:
    """Return the testbed's cluster, started if need be.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    running = find_kubernetes(state)
    if running:
        return running
    stop_kubernetes(state)
    return start_cluster(state / "kubernetes", kubernetes_program(state))


def stop_kubernetes(state: Path) -> None:
    """Stop the testbed's cluster and remove its state."""
    stop_cluster(state / "kubernetes")


def kubernetes_program(state: Path) -> Path:
    """Return the parts of Kubernetes as one program, built if need be (UnavailableError: it cannot be)."""
    folder = state / "packages" / f"kubernetes-{KUBERNETES}"
    return go_program("kube", folder, build_kubernetes, 6)


def find_cluster(folder: Path, node: Sequence[str]) -> KubernetesCluster | None:
    """Return the cluster of a folder if it runs, with these processes of its node."""
    if not all(processes.find(name, folder) for name in (*_PROCESSES, *node)):
        return None
    try:
        known = json.loads((folder / "cluster.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return KubernetesCluster(folder, Path(known["program"]), known["port"], tuple(known["store_ports"]))


def start_cluster(
    folder: Path, program: Path, start_node: Callable[[KubernetesCluster], None] | None = None
) -> KubernetesCluster:
    """Start a cluster with its state in a folder that is not there yet.

    Args:
        folder: the folder.
        program: the parts of Kubernetes.
        start_node: starts its node, which is called NODE; by default, one that only says that it runs pods.

    Raises:
        UnavailableError: it does not start.
    """
    require({"openssl": "openssl"})
    folder.mkdir(parents=True, mode=0o700)
    try:
        make_certificates(folder)
        run(["openssl", "genrsa", "-out", folder / "accounts.key", "2048"])
        (folder / "bin").mkdir()
        _write_secret(folder / "bin/kubectl", f'#!/bin/sh\nexec "{program}" kubectl "$@"\n', mode=0o755)
        return _serve(folder, program, start_node or _start_fake_node)
    except UnavailableError:
        stop_cluster(folder)
        raise


def stop_cluster(folder: Path) -> None:
    """Stop a cluster, with what it left, and remove its folder; does nothing where nothing is left."""
    if folder.exists():
        _stop_processes(folder)
        shutil.rmtree(folder)


def _stop_processes(folder: Path) -> None:
    of_node = {file.stem for file in folder.glob("*.pid")} - set(_PROCESSES)
    for name in (*of_node, *_PROCESSES):
        processes.stop(name, folder, patience=2)  # the API server waits for those who watch


def _serve(folder: Path, program: Path, start_node: Callable[[KubernetesCluster], None]) -> KubernetesCluster:
    problem = ""
    for _ in range(_ATTEMPTS):
        port, *store = free_ports(3)
        cluster = KubernetesCluster(folder, program, port, (store[0], store[1]))
        token = secrets.token_urlsafe(24)
        _write_secret(folder / "tokens.csv", f"{token},administrator,administrator,system:masters\n")
        _write_kubeconfig(cluster, token, cluster.kubeconfig)
        _start_store(cluster)
        _start_server(cluster)
        if _is_ready(cluster, 60):
            _start_controllers(cluster)
            start_node(cluster)
            if processes.wait_until(lambda c=cluster: _has_node(c), 60):  # type: ignore[misc]
                known = {"program": str(program), "port": port, "store_ports": store}
                (folder / "cluster.json").write_text(json.dumps(known), encoding="utf-8")
                return cluster
        problem = "\n    ".join(_said(cluster, file.stem) for file in folder.glob("*.log"))
        _stop_processes(folder)
        shutil.rmtree(folder / "etcd", ignore_errors=True)
    raise UnavailableError(f"Kubernetes does not start:\n    {problem}", "run it by hand to see why")


def _start_fake_node(cluster: KubernetesCluster) -> None:
    arguments = [sys.executable, "-m", "testbed.fake_node", cluster.kubeconfig]
    environment = {"PATH": SEARCH_PATH, "PYTHONPATH": str(Path(__file__).parents[1])}
    processes.start(_FAKE_NODE, arguments, cluster.folder, environment)


def _start_store(cluster: KubernetesCluster) -> None:
    clients, peers = (f"http://127.0.0.1:{port}" for port in cluster.store_ports)
    settings = {
        "data-dir": cluster.folder / "etcd",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
        "unsafe-no-fsync": "true",
        "log-level": "error",
    }
    cluster.start("etcd", settings)


def _start_server(cluster: KubernetesCluster) -> None:
    folder = cluster.folder
    settings = {
        "etcd-servers": f"http://127.0.0.1:{cluster.store_ports[0]}",
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "secure-port": cluster.port,
        "endpoint-reconciler-type": "none",
        "tls-cert-file": folder / "server.pem",
        "tls-private-key-file": folder / "server.key",
        "token-auth-file": folder / "tokens.csv",
        "authorization-mode": "RBAC",
        "service-account-issuer": _ISSUER,
        "service-account-key-file": folder / "accounts.key",
        "service-account-signing-key-file": folder / "accounts.key",
        "service-cluster-ip-range": "10.0.0.0/24",
        "allow-privileged": "true",
        "enable-priority-and-fairness": "false",
        "kubelet-preferred-address-types": "InternalIP",  # no name server knows the node
        # It keeps pods from a new node until the controller of nodes, which is left out, says that the node is ready.
        "disable-admission-plugins": "TaintNodesByCondition",
    }
    cluster.start(_SERVER, settings)


def _start_controllers(cluster: KubernetesCluster) -> None:
    folder = cluster.folder
    settings = {
        "kubeconfig": cluster.kubeconfig,
        "authentication-kubeconfig": cluster.kubeconfig,
        "authorization-kubeconfig": cluster.kubeconfig,
        "secure-port": 0,
        "leader-elect": "false",
        "service-account-private-key-file": folder / "accounts.key",
        "root-ca-file": cluster.ca_file,
        "controllers": ",".join(["*", *(f"-{name}-controller" for name in _LEFT_OUT)]),
    }
    cluster.start(_CONTROLLERS, settings)


def _is_ready(cluster: KubernetesCluster, seconds: float) -> bool:
    trust = ssl.create_default_context(cafile=cluster.ca_file)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))

    def answers() -> bool:
        try:
            with opener.open(f"{cluster.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    ended = lambda: not all(processes.find(name, cluster.folder) for name in (_SERVER, "etcd"))  # noqa: E731
    return processes.wait_until(lambda: answers() or ended(), seconds) and not ended()


def _has_node(cluster: KubernetesCluster) -> bool:
    # The account `default` is what the controllers make when they work: a pod could not be made before it.
    try:
        cluster.kubectl("get", "serviceaccount/default")
        ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return cluster.kubectl("get", "node", NODE, "-o", ready) == "True"
    except UnavailableError:
        return False


def _write_kubeconfig(cluster: KubernetesCluster, token: str, file: Path, *, namespace: str = "default") -> Path:
    name = "testbed"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": cluster.url, "certificate-authority": str(cluster.ca_file)}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    _write_secret(file, json.dumps(content, indent=1))
    return file


def _write_secret(file: Path, content: str, mode: int = 0o600) -> None:
    file.touch(mode=mode)
    file.write_text(content, encoding="utf-8")


def _said(cluster: KubernetesCluster, name: str) -> str:
    return f"{name}: {processes.tail(cluster.folder / f'{name}.log', 3)}"


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")

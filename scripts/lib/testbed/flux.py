"""Flux's kustomize-controller, outside the testbed's cluster and against it, with the kinds of its sources.

No source controller runs: a test writes into the status of a source what it would have fetched. The controller trusts
https of this machine that is signed by the cluster's authority.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.controller_schemas import controller_definitions
from testbed.errors import UnavailableError
from testbed.go_programs import FLUX, build_flux, go_program
from testbed.kubernetes_cluster import KubernetesCluster, find_kubernetes
from testbed.processes import SEARCH_PATH

_PROGRAM = "kustomize-controller"
NAMESPACE = "flux-system"


@dataclass(frozen=True, slots=True)
class Flux:
    """The running controller.

    Attributes:
        cluster: where it works.
        folder: its state.
    """

    cluster: KubernetesCluster
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what kubectl needs to see it work."""
        return self.cluster.environment


def find_flux(state: Path) -> Flux | None:
    """Return the controller if it runs for the testbed's cluster."""
    cluster, folder = find_kubernetes(state), state / "flux"
    if cluster is None or not processes.find(_PROGRAM, folder):
        return None
    # One of a cluster that was started again works for nobody.
    return Flux(cluster, folder) if (folder / "cluster").read_text(encoding="utf-8") == cluster.url else None


def start_flux(state: Path) -> Flux:
    """Return the controller, started if need be.

    Raises:
        UnavailableError: there is no cluster, or what is missing and how to get it.
    """
    running = find_flux(state)
    if running:
        return running
    stop_flux(state)
    cluster = find_kubernetes(state)
    if cluster is None:
        raise UnavailableError("the part kubernetes is down", "scripts/testbed up kubernetes flux")
    program = flux_program(state)
    folder = state / "flux"
    folder.mkdir(parents=True)
    (folder / "cluster").write_text(cluster.url, encoding="utf-8")
    kinds = [f"--filename={file}" for file in controller_definitions(state).glob("*.toolkit.fluxcd.io_*.yaml")]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *kinds)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *kinds)
    cluster.kubectl("apply", "-f", "-", given=f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n")
    settings = {
        "enable-leader-election": "false",
        "events-addr": "",
        "feature-gates": "ExternalArtifact=true",
        "health-addr": "0",
        "metrics-addr": "0",
        "watch-all-namespaces": "true",
    }
    environment = {
        "PATH": SEARCH_PATH,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "KUBECONFIG": str(cluster.kubeconfig),
        "RUNTIME_NAMESPACE": NAMESPACE,
        "SSL_CERT_FILE": str(cluster.ca_file),
    }
    arguments = [program, *(f"--{name}={value}" for name, value in settings.items())]
    processes.start(_PROGRAM, arguments, folder, environment)
    works = lambda: "Starting workers" in processes.tail(folder / f"{_PROGRAM}.log", 100)  # noqa: E731
    ended = lambda: not processes.find(_PROGRAM, folder)  # noqa: E731
    if processes.wait_until(lambda: works() or ended(), 60) and not ended():
        return Flux(cluster, folder)
    problem = processes.tail(folder / f"{_PROGRAM}.log")
    stop_flux(state)
    raise UnavailableError(f"{_PROGRAM} does not start:\n    {problem}", "run it by hand to see why")


def stop_flux(state: Path) -> None:
    """Stop the controller; its kinds stay in the cluster."""
    folder = state / "flux"
    if folder.exists():
        processes.stop(_PROGRAM, folder)
        shutil.rmtree(folder)


def flux_program(state: Path) -> Path:
    """Return the controller's program, built if need be (UnavailableError: it cannot be)."""
    return go_program(_PROGRAM, state / "packages" / f"flux-{FLUX}", build_flux, 5, extra=True)

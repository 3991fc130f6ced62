"""A Kubernetes cluster whose node runs its pods: kubelet, scheduler and a containerd of its own. Only for root.

1. The node is in a mount namespace of its own: what kubelet and containerd write outside the state folder, also to
   settings of the kernel, stays there and is gone with the node.
2. Pods reach this machine and each other, and no further. They run the images of testbed.test_image; none is pulled.
3. Stopping leaves no process, control group, bridge or mount, also when kubelet or containerd was killed before.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from testbed import processes
from testbed.bridge import bridge_name, make_bridge, remove_bridges
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.go_programs import KUBERNETES, build_kubernetes, go_program
from testbed.kubernetes_cluster import NODE, KubernetesCluster, find_cluster, start_cluster, stop_cluster
from testbed.packages import program, require, unpack
from testbed.processes import run
from testbed.test_image import TEST_IMAGE, TEST_IMAGE_NEXT, image_archive

_CGROUPS = Path("/sys/fs/cgroup")
_PAUSE = "margo-gitops-test/pause:1"
_KERNEL = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_KERNEL_KEYS = ("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")
_RUN = """\
set -e
for name in $KERNEL; do
    mkdir -p "kernel/${name%/*}"
    cat "/proc/sys/$name" >"kernel/$name"
    mount --bind "kernel/$name" "/proc/sys/$name"
done
for folder in /run/containerd /var/lib/cni /var/log; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
done
containerd --config containerd.toml >containerd.log 2>&1 &
exec "$@"
"""
_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/network"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


def find_node(state: Path) -> KubernetesCluster | None:
    """Return the cluster with a node that runs pods, if it runs."""
    return find_cluster(state / "node", ("kubelet", "kube-scheduler"))


def start_node(state: Path) -> KubernetesCluster:
    """Return a cluster with a node that runs pods, started if need be.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    running = find_node(state)
    if running:
        return running
    stop_node(state)
    if os.geteuid() != 0:
        raise UnavailableError("only root can run the pods of a node", "run as root")
    require({"containerd": "containerd", "ctr": "containerd", "runc": "runc", "ip": "iproute2"})
    cache = state / "packages"
    plugins = unpack("containernetworking-plugins", "bridge", cache).parent
    busybox = unpack("busybox-static", "busybox", cache)
    try:
        return start_cluster(state / "node", node_program(state), functools.partial(_start, plugins, busybox))
    except UnavailableError:
        stop_node(state)
        raise


def stop_node(state: Path) -> None:
    """Stop the cluster and all that its pods left; does nothing where nothing is left."""
    folder = state / "node"
    if not folder.exists():
        return
    processes.stop("kubelet", folder, patience=2)
    name = bridge_name(folder)
    processes.kill([process for process in processes.everything() if _belongs(process.pid, folder, name)])
    for group in sorted(_CGROUPS.glob(f"**/{name}/**/"), reverse=True):
        with suppress(OSError):
            group.rmdir()
    remove_bridges(name, folder / "none")
    stop_cluster(folder)


def node_program(state: Path) -> Path:
    """Return the parts of Kubernetes with those of a node, built if need be (UnavailableError: it cannot be)."""
    folder = state / "packages" / f"node-{KUBERNETES}"
    return go_program("kube", folder, functools.partial(build_kubernetes, tags="node"), 8, extra=True)


def _start(plugins: Path, busybox: Path, cluster: KubernetesCluster) -> None:
    folder = cluster.folder
    name = bridge_name(folder)
    make_bridge(name)
    address = ipaddress.IPv4Interface(run(["ip", "-br", "-4", "address", "show", name]).split()[2])
    for hierarchy in [_CGROUPS] if (_CGROUPS / "cgroup.controllers").exists() else _CGROUPS.iterdir():
        (hierarchy / name).mkdir(exist_ok=True)
    (folder / "network").mkdir(exist_ok=True)
    (folder / "network/10-testbed.conflist").write_text(json.dumps(_network(folder, name, address)), encoding="ascii")
    written = _CONTAINERD.format(folder=folder, plugins=plugins, pause=_PAUSE)
    (folder / "containerd.toml").write_text(written, encoding="utf-8")
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(folder, name, address)), encoding="utf-8")

    scheduler = {"kubeconfig": cluster.kubeconfig, "secure-port": 0, "leader-elect": "false"}
    cluster.start("kube-scheduler", scheduler)
    kubelet = {
        "config": folder / "kubelet.json",
        "kubeconfig": cluster.kubeconfig,
        "hostname-override": NODE,
        "root-dir": folder / "kubelet",
        "cert-dir": folder / "kubelet-certificates",
        "node-ip": address.ip,
    }
    kernel = " ".join(each for each in _KERNEL + _KERNEL_KEYS if Path("/proc/sys", each).exists())
    namespace = [program("unshare") or "unshare", "--mount", "--propagation=private", "--wd", folder, "sh", "-c"]
    cluster.start("kubelet", kubelet, before=[*namespace, _RUN, "sh"], environment={"KERNEL": kernel})
    if not processes.wait_until((folder / "containerd.sock").exists, 20):
        raise UnavailableError(f"no containerd:\n    {processes.tail(folder / 'containerd.log')}", "run it by hand")
    images = {_PAUSE: ["sleep", "2147483647"], TEST_IMAGE: ["sh"], TEST_IMAGE_NEXT: ["sh"]}
    archive = folder / "images.tar"
    archive.write_bytes(image_archive(busybox, images))
    ctr = ["ctr", "--address", folder / "containerd.sock", "--namespace", "k8s.io", "images", "import", archive]
    run(ctr, seconds=60)
    archive.unlink()


def _network(folder: Path, name: str, address: ipaddress.IPv4Interface) -> Mapping[str, object]:
    ranges = [[{"subnet": str(address.network)}]]
    plugin = {"type": "bridge", "bridge": name, "ipam": {"type": "host-local", "dataDir": f"{folder}/addresses"}}
    plugin["ipam"]["ranges"] = ranges  # type: ignore[index]
    return {"cniVersion": "1.0.0", "name": "testbed", "plugins": [plugin]}


def _kubelet(folder: Path, name: str, address: ipaddress.IPv4Interface) -> Mapping[str, object]:
    (port,) = free_ports(1)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(address.ip),
        "port": port,
        "healthzPort": 0,
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        # A full disk or a small machine is no reason to stop the pods of a test.
        "evictionHard": dict.fromkeys(["memory.available", "nodefs.available", "nodefs.inodesFree"], "0%")
        | dict.fromkeys(["imagefs.available", "imagefs.inodesFree"], "0%"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "localStorageCapacityIsolation": False,
        "featureGates": {"KubeletInUserNamespace": True},
        "syncFrequency": "2s",
        "resolvConf": "",
    }


def _belongs(pid: int, folder: Path, name: str) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    runtime = Path(os.fsdecode(arguments[0])).name.startswith("containerd")
    ours = os.fsencode(folder / "containerd.sock") in arguments or b"containerd.toml" in arguments
    return (runtime and ours) or f"/{name}/" in groups

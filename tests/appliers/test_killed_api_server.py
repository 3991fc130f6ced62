"""The API server is killed at a request of an update, and starts again: the appliers `kubernetes` and `helm`.

`MARGO_GITOPS_FAULT_STEP=1` kills it at every request; a run in CI takes one request of the applier `kubernetes`.
"""

import os
from itertools import count

import pytest
from cluster_device import ClusterDevice
from helm_site import Site
from support.faulty_http import Answer
from support.kubernetes_proxy import kubernetes_proxy

from margo_gitops.errors import ApplyError, EngineUnavailable

STEP = int(os.environ.get("MARGO_GITOPS_FAULT_STEP", "0"))


def killed_at(proxy, number, step, *, late):
    """Kill the API server at a request of a step, before or after it has the request; return what the step raises."""
    seen = count()

    def kill(*_):
        if next(seen) != number:
            return None
        proxy.cluster.kill_server()
        return Answer(0, [], b"", raw=b"")

    where = proxy.faults if late else proxy.early
    where.append(kill)
    try:
        step()
    except ApplyError as error:
        return error
    finally:
        where.clear()
    return None


def comes_through(proxy, applier, version, running):
    """Let the server die at requests of updates, with an agent that lives on.

    Args:
        version: makes a workload of a number.
        running: returns the images that run.
    """

    def step(workload):
        applier.prepare(workload)
        applier.install(workload)

    step(version(1))
    begin = len(proxy.requests)
    step(version(2))
    points = [(number, late) for number in range(len(proxy.requests) - begin) for late in (False, True)]
    for turn, (number, late) in enumerate(points[STEP // 2 :: STEP] if STEP else points[-15:-14]):
        workload = version(1 + turn % 2)
        died = f"at request {number}, {'after' if late else 'before'} it"
        error = killed_at(proxy, number, lambda workload=workload: step(workload), late=late)
        if error is None:  # waiting took fewer requests, and it lives
            continue
        assert isinstance(error, EngineUnavailable), (died, error)
        assert error.why, died
        assert error.remedy, died
        begin = len(proxy.requests)
        with pytest.raises(EngineUnavailable):
            applier.observe()
        assert len(proxy.requests) - begin == 1, died
        proxy.cluster.start_server()
        assert running() <= {"web:1", "web:2"}, died
        assert running(), died
        step(workload)
        observed = [(each.digest, each.condition, each.by_hand) for each in applier.observe()]
        assert observed == [(workload.digest, "running", "")], died
        print(died, error.what, flush=True)


def test_an_api_server_that_is_killed_at_a_request_takes_no_update_away(own_kubernetes_cluster, helm_program, tmp_path):
    cluster = own_kubernetes_cluster
    cluster.kubectl("create", "namespace", "plant")

    def images():
        return set(cluster.kubectl("-n", "plant", "get", "pods", "-o", "jsonpath={..image}").split()) - {""}

    with kubernetes_proxy(cluster, tmp_path) as proxy:
        device = ClusterDevice(tmp_path, cluster, "plant", proxy)
        device.replicas = 1
        comes_through(proxy, device.applier(), lambda each: device.workload(f"web:{each}"), images)
        if not STEP:
            return
        site = Site(tmp_path, cluster, "plant", helm_program, {"kubeconfig": str(proxy.kubeconfig)})
        comes_through(proxy, site.applier(), lambda each: site.workload({"image": f"web:{each}"}), images)

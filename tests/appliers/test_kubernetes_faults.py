"""The applier `kubernetes` where an update breaks at one of its requests.

`MARGO_GITOPS_FAULT_STEP=1` breaks it in each way at every request; a run in CI takes some of them.
"""

import json
import os
import signal
from itertools import count

import pytest
from cluster_device import cluster_device
from support.faulty_http import Answer

from margo_gitops.appliers.kubernetes import applier as module
from margo_gitops.errors import (
    ApplyError,
    EngineUnavailable,
    InstallFailed,
    RemoveFailed,
)

STEP = int(os.environ.get("MARGO_GITOPS_FAULT_STEP", "97"))


@pytest.fixture
def device(tmp_path, kubernetes_cluster, kubernetes_namespace):
    with cluster_device(tmp_path, kubernetes_cluster, kubernetes_namespace) as made:
        yield made


def killed_at(device, workload, number, *, late):
    """Let an agent take a step, and kill it at a request, before or after the server has it; return whether it was."""
    child = os.fork()
    if not child:
        try:
            device.step(workload)
        finally:
            os._exit(0)
    numbers = count()

    def kill(*_):
        if next(numbers) != number:
            return None
        os.kill(child, signal.SIGKILL)
        return Answer(0, [], b"", raw=b"")

    where = device.proxy.faults if late else device.proxy.early
    where.append(kill)
    try:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    finally:
        where.clear()


GONE = Answer(0, [], b"", raw=b"")
LATE, EARLY = "after", "before"


def status_answer(code, message):
    content = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return Answer(code, [("Content-Type", "application/json")], json.dumps(content).encode())


KINDS = {
    "kill before": "kill",
    "kill after": "kill",
    "gone before": GONE,
    "gone after": GONE,
    "409": status_answer(409, "the object has been modified"),
    "410": status_answer(410, "too old resource version"),
    "422": status_answer(422, "spec: Invalid value"),
    "429": status_answer(429, "too many requests"),
    "500": status_answer(500, "etcdserver: request timed out"),
    "503": status_answer(503, "the server is shutting down"),
    "a page": Answer(200, [("Content-Type", "text/html")], b"<html>"),
}


def broken_at(device, workload, number, kind):
    """Let an update break at one of its requests."""
    late, answer, seen = kind.endswith("after"), KINDS[kind], count()
    if answer == "kill":
        killed_at(device, workload, number, late=late)  # or not: waiting takes more requests, or fewer
        return
    where = device.proxy.faults if late else device.proxy.early

    def breaks(*_):
        at = next(seen)
        broken.append(at)
        return answer if at == number or (answer is GONE and at > number) else None

    broken = []
    where.append(breaks)
    begin, error = len(device.proxy.requests), None
    try:
        device.step(workload)
    except ApplyError as raised:
        error = raised
    assert error is None or error.why
    assert error is None or isinstance(error, EngineUnavailable) or kind[0] == "4", error
    assert error or answer is not GONE or len(broken) <= number
    assert len(device.proxy.requests) - begin < 60
    if answer is GONE:
        begin = len(device.proxy.requests)
        with pytest.raises(EngineUnavailable):
            device.applier().observe()
        assert len(device.proxy.requests) - begin == 1
    where.clear()


def test_an_update_that_breaks_at_a_request_comes_through(device):
    device.kubectl("create", "configmap", "of-others", "--from-literal=a=b")
    device.install(device.workload("web:1"))
    begin, known = len(device.proxy.requests), device.seen()
    device.step(device.workload("web:2"))
    every = len(device.proxy.requests) - begin
    assert every < 60
    points = [(number, kind) for number in range(every) for kind in KINDS]
    for turn, (number, kind) in enumerate(points[STEP // 2 :: STEP]):
        workload = device.workload(f"web:{1 + turn % 2}")
        broken_at(device, workload, number, kind)
        assert device.image() in ("web:1", "web:2")
        device.install(workload)
        assert device.seen() == known, f"{kind} request {number}"


class Killed(BaseException):
    """Ends a step as a kill does."""


def test_what_ran_last_is_what_the_cluster_says(device, monkeypatch):
    def dies(*_):
        raise Killed

    device.install(device.workload("web:1"))
    second = device.workload("web:2")
    with monkeypatch.context() as dying:
        dying.setattr(module.KubernetesApplier, "_made_current", dies)
        with pytest.raises(Killed):
            device.step(second)
    device.runs(second)
    device.replicas = 1
    with pytest.raises(InstallFailed) as caught:
        device.step(device.workload("bad:1", timeout="0m1s"))
    assert caught.value.reinstated
    assert device.image() == "web:2"
    device.runs(second)


OLD = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: old, finalizers: [example.com/keeps]}\n"


def test_an_old_object_that_does_not_go_takes_no_update_back(device, monkeypatch):
    monkeypatch.setattr(module, "_REMOVE_SECONDS", 0.5)
    device.install(device.workload("web:1", OLD))
    second = device.workload("web:2")
    for _ in range(2):
        with pytest.raises(RemoveFailed, match=r"waits for example\.com/keeps"):
            device.step(second)
        assert device.image() == "web:2"
    device.kubectl("patch", "configmap", "old", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    device.install(second)

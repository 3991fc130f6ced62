"""What one client does to the server is not felt by the others: histories, long requests, a registry that is gone."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from server.git_requests import command, objects
from server.serving import ServedFleet
from server.signing_fleet import SigningFleet
from starlette.responses import Response
from starlette.types import Message, Scope
from support.state_publishing import Renderer

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.server.identity.callers import Caller
from margo_gitops.server.resources.desired_state import DesiredStateResources
from margo_gitops.server.resources.git import GitResources
from margo_gitops.server.resources.git_packs import Plan
from margo_gitops.server.resources.git_wire import Fetch, old_acknowledgments
from margo_gitops.server.routing import Call
from margo_gitops.server.service.connection import _Server
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.served_state import ServedState
from margo_gitops.state_repo.state_repo import StateRepo

MANY = 40
"""More than the event loop has threads."""


def resources(folder: Path) -> GitResources:
    watch = StateWatch(ServedState(StateRepo.open(folder)), 10)
    reading = DesiredStateResources(watch, None, longest_wait=0, profile="lenient")
    return GitResources(watch, reading, StateObjects(folder), longest_wait=0)


async def ask(git: GitResources, device: str, body: bytes) -> Response:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope: Scope = {"type": "http", "method": "POST", "headers": [(b"git-protocol", b"version=2")]}
    return await git.upload_pack(Call(scope, receive, Caller(device, "token")))


def test_a_device_is_answered_while_another_asks_for_history_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(tmp_path / "state.git")
    for number in range(3):
        renderer.publish({device: {"app": b"%d\n" % number} for device in ("flood", "press-01")})
    tips = {device: renderer.git.run("rev-parse", device_ref(device)) for device in ("flood", "press-01")}
    git = resources(renderer.git.path)
    going_on = threading.Event()
    build = git.packs.build

    def slow(plan: Plan) -> bytes:
        """Build; a history as slowly as the largest one."""
        assert plan.is_kept or going_on.wait(30)
        return build(plan)

    monkeypatch.setattr(git.packs, "build", slow)

    async def run() -> None:
        want = f"want {tips['flood']}"
        forms = [("done",), ("deepen 2", "done"), ("deepen 1", f"want {tips['flood']}", "deepen-relative", "done")]
        floods = [
            asyncio.create_task(ask(git, "flood", command("fetch", want, *forms[number % len(forms)])))
            for number in range(MANY)
        ]
        await asyncio.sleep(0)  # so that they come first
        try:
            own = command("fetch", f"want {tips['press-01']}", "deepen 1", "done")
            answer = await asyncio.wait_for(ask(git, "press-01", own), 15)
            assert tips["press-01"].encode() in objects(bytes(answer.body))
        finally:
            going_on.set()
        for answer in await asyncio.gather(*floods):
            assert tips["flood"].encode() in objects(bytes(answer.body))

    asyncio.run(run())


def test_who_waits_costs_no_task_of_its_own_and_ends_by_a_change_the_time_or_a_connection_that_is_gone(
    tmp_path: Path,
) -> None:
    renderer = Renderer(tmp_path / "state.git")
    renderer.publish({device: {"app": b"1\n"} for device in ("gone", "late", "moved")})
    watch = StateWatch(ServedState(StateRepo.open(renderer.git.path)), 10)

    async def silent() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def leaving() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def run() -> None:
        waits = [
            asyncio.create_task(watch.wait(device, seconds, receive))
            for device, seconds, receive in (
                ("moved", 30, silent),
                ("moved", 30, silent),
                ("moved", 30, silent),
                ("late", 0.3, silent),
                ("gone", 30, leaving),
            )
        ]
        await asyncio.sleep(0.1)
        assert (await waits[2], await waits[4]) == (False, False)
        assert watch.waiting == 3
        assert len(asyncio.all_tasks()) == 1 + watch.waiting
        renderer.publish({"moved": {"app": b"2\n"}})
        watch.look()
        watch.close()  # who was woken already is not woken twice
        assert await asyncio.gather(*waits) == [False] * 5
        assert watch.waiting == 0

    asyncio.run(run())


def test_a_change_wakes_who_waits_for_it_and_nobody_else(tmp_path: Path) -> None:
    renderer = Renderer(tmp_path / "state.git")
    renderer.publish({device: {"app": b"1\n"} for device in ("late", "moved")})
    watch = StateWatch(ServedState(StateRepo.open(renderer.git.path)), 10)

    async def silent() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        waits = [asyncio.create_task(watch.wait(device, 0.3, silent)) for device in ("moved", "late")]
        await asyncio.sleep(0.05)
        renderer.publish({"moved": {"app": b"2\n"}})
        began = time.monotonic()
        watch.look()
        assert await waits[0]
        assert time.monotonic() - began < 0.2
        assert not await waits[1]
        assert watch.waiting == 0

    asyncio.run(run())


def test_acknowledging_takes_time_in_proportion_to_what_is_said() -> None:
    names = tuple(f"{number:040x}" for number in range(20_000))
    begin = time.process_time()
    said = old_acknowledgments(Fetch(("w",), multi_ack="common"), names, names)
    assert time.process_time() - begin < 1
    assert said.count(b"common") == len(names)


def test_a_registry_that_cannot_be_read_is_no_wrong_signature(fleet: ServedFleet) -> None:
    signing = SigningFleet(fleet).start()
    with signing.http:
        client = signing.client()
        assert client.get("deployments").status_code == 200
        (file,) = fleet.folder.rglob("*client*.sqlite")
        other = sqlite3.connect(file)
        other.execute("ALTER TABLE client RENAME TO gone")
        assert client.get("deployments").status_code == 503
        other.execute("ALTER TABLE gone RENAME TO client")
        other.close()
        assert client.get("deployments").status_code == 200


def test_a_signal_that_comes_while_a_request_begins_to_wait_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that looked whether the server ends, and waits only then, must not wait for its whole time."""
    renderer = Renderer(tmp_path / "state.git")
    renderer.publish({"press-01": {"app": b"1\n"}})
    watch = StateWatch(ServedState(StateRepo.open(renderer.git.path)), 10)
    server = _Server(uvicorn.Config(Response()), watch)
    timeout = asyncio.timeout

    def interrupted(seconds: float) -> asyncio.Timeout:
        signal.raise_signal(signal.SIGTERM)
        return timeout(seconds)

    async def never() -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def wait() -> bool:
        async with timeout(30):
            return await watch.wait("press-01", 3600, never)

    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        monkeypatch.setattr(asyncio, "timeout", interrupted)
        assert not asyncio.run(wait())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert watch.closed
    assert server.should_exit

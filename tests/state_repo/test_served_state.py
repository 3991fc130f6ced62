"""What programs that serve the state repo see of it."""

import json
import os
import threading
from pathlib import Path

import pytest
from support.state_publishing import Renderer

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.objects import DeviceState
from margo_gitops.state_repo.served_state import ServedState


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    renderer = Renderer(tmp_path / "state.git")
    renderer.publish(FIRST)
    return renderer


FIRST = {"press-01": {"hmi": b"a: 1\n", "mes": b"b: 1\n"}, "mixer-01": {"hmi": b"m: 1\n"}, "idle-01": {}}


def manifest_of(state: ServedState, client: str) -> dict:
    content = state.view().manifest(client)
    assert content is not None
    return json.loads(content)


def test_a_client_gets_the_bytes_of_its_branch(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    held = renderer.repo.held("press-01", renderer.refs())
    assert held is not None
    assert served.view().manifest("press-01") == held.manifest
    assert served.view().devices() == ("idle-01", "mixer-01", "press-01")
    assert served.view().revision("press-01") == renderer.refs()[device_ref("press-01")]


def test_every_digest_that_a_manifest_names_is_found(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    view = served.view()
    manifest = manifest_of(served, "press-01")
    documents = {}
    for reference in manifest["deployments"]:
        content = view.deployment("press-01", reference["deploymentId"], reference["digest"])
        assert content is not None
        assert sha256(content) == reference["digest"]
        documents[reference["deploymentId"]] = content
    bundle = view.bundle("press-01", manifest["bundle"]["digest"])
    assert bundle == write_bundle(documents)
    assert sha256(bundle) == manifest["bundle"]["digest"]


def test_another_clients_digests_are_not_found(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    theirs = manifest_of(served, "mixer-01")
    reference = theirs["deployments"][0]
    assert served.view().deployment("press-01", reference["deploymentId"], reference["digest"]) is None
    assert served.view().bundle("press-01", theirs["bundle"]["digest"]) is None


def test_a_client_without_deployments_has_no_bundle(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    assert manifest_of(served, "idle-01")["bundle"] is None
    assert served.view().bundle("idle-01", sha256(b"")) is None


@pytest.mark.parametrize("client", ["nobody", "", "..", "../press-01", "press-01/x", "a" * 81, "press-01\n", "ä"])
def test_what_is_no_client_has_no_state(renderer: Renderer, client: str) -> None:
    view = ServedState(renderer.repo).view()
    assert view.manifest(client) is None
    assert view.snapshot(client) is None
    assert view.bundle(client, sha256(b"x")) is None


def test_a_render_is_seen_by_the_next_refresh_and_never_by_an_older_view(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    before = served.view()
    renderer.publish(FIRST | {"press-01": {"hmi": b"a: 2\n"}})
    assert served.refresh()
    assert not served.refresh()
    assert json.loads(before.manifest("press-01") or b"")["manifestVersion"] == 1
    assert manifest_of(served, "press-01")["manifestVersion"] == 2


def test_two_renders_within_one_tick_of_the_clock_are_both_seen(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    for version in range(2, 12):
        renderer.publish(FIRST | {"press-01": {"hmi": b"a: %d\n" % version}})
        assert served.refresh()
        assert manifest_of(served, "press-01")["manifestVersion"] == version


def test_a_branch_that_git_itself_moved_is_seen(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    ref, commit = device_ref("press-01"), renderer.refs()[device_ref("mixer-01")]
    renderer.git.run("update-ref", ref, commit)
    assert served.refresh()
    assert served.view().revision("press-01") == commit


def test_other_branches_are_no_state(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    renderer.git.run("update-ref", "refs/heads/reports", renderer.refs()[device_ref("mixer-01")])
    assert not served.refresh()


def test_what_a_device_began_to_fetch_can_be_finished_after_a_render(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    begun = manifest_of(served, "press-01")
    renderer.publish(FIRST | {"press-01": {"hmi": b"a: 2\n"}})
    served.refresh()
    view = served.view()
    assert view.bundle("press-01", begun["bundle"]["digest"]) is not None
    for reference in begun["deployments"]:
        assert view.deployment("press-01", reference["deploymentId"], reference["digest"]) is not None
        assert view.deployed_lately("press-01", reference["deploymentId"])


def test_memory_is_bounded(renderer: Renderer) -> None:
    devices = {f"d-{number}": {"hmi": b"x" * 20_000} for number in range(20)}
    renderer.publish(devices)
    served = ServedState(renderer.repo, cache_bytes=100_000)
    for device in devices:
        assert served.view().manifest(device)
    kept = served.objects._kept._kept.values()
    assert sum(isinstance(each, DeviceState) for each in kept) <= 5


def test_a_branch_that_holds_something_else_is_named(renderer: Renderer) -> None:
    renderer.git.run("update-ref", device_ref("press-01"), renderer.refs()["refs/heads/fleet"])
    with pytest.raises(StateTampered) as caught:
        ServedState(renderer.repo).view().manifest("press-01")
    assert caught.value.device == "press-01"


def test_readers_see_whole_states_while_renders_go_on(renderer: Renderer) -> None:
    served = ServedState(renderer.repo)
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            served.refresh()
            view = served.view()
            manifest = json.loads(view.manifest("press-01") or b"")
            if view.bundle("press-01", manifest["bundle"]["digest"]) is None:
                seen.append("half a state")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for each in readers:
        each.start()
    for version in range(2, 20):
        renderer.publish(FIRST | {"press-01": {"hmi": os.urandom(8).hex().encode(), "v": b"%d" % version}})
    stop.set()
    for each in readers:
        each.join()
    assert seen == []

"""Polls that wait for a change (RFC 7240), and what wakes them."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from server.serving import FLEET, ServedFleet, until

MANIFEST = "/api/v1/deployments"


def poll(fleet: ServedFleet, device: str, etag: str, wait: int = 20) -> tuple[httpx.Response, float]:
    """Poll with a wait; return the answer and when it came."""
    with fleet.client(device) as client:
        answer = client.get(MANIFEST, headers={"If-None-Match": etag, "Prefer": f"wait={wait}"})
        return answer, time.monotonic()


def etag_of(fleet: ServedFleet, device: str) -> str:
    with fleet.client(device) as client:
        return client.get(MANIFEST).headers["ETag"]


def test_a_render_wakes_the_devices_that_it_changed_at_once(fleet: ServedFleet) -> None:
    fleet.start()
    with ThreadPoolExecutor() as pool:
        changed = pool.submit(poll, fleet, "press-01", etag_of(fleet, "press-01"))
        idle = pool.submit(poll, fleet, "press-02", etag_of(fleet, "press-02"), 3)
        until_waiting(fleet, 2)
        rendered = time.monotonic()
        fleet.render(FLEET | {"press-01": {"hmi": b"new\n"}})
        answer, came = changed.result()
        unchanged, _ = idle.result()
    assert answer.status_code == 200
    assert answer.json()["manifestVersion"] == 2
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert came - rendered < 2
    assert unchanged.status_code == 304


def until_waiting(fleet: ServedFleet, count: int = 1) -> None:
    """Wait until this many clients are connected."""
    until(lambda: fleet.connections() >= count)


def test_nothing_new_is_304_when_the_wait_is_over(fleet: ServedFleet) -> None:
    fleet.start()
    etag, began = etag_of(fleet, "press-01"), time.monotonic()
    answer, came = poll(fleet, "press-01", etag, 1)
    assert answer.status_code == 304
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert 0.9 < came - began < 5


def test_f12_a_change_while_nobody_was_connected_is_not_lost(fleet: ServedFleet) -> None:
    """A poll says what it holds, so there is no event to miss."""
    fleet.start()
    etag = etag_of(fleet, "press-01")
    fleet.render(FLEET | {"press-01": {"hmi": b"while away\n"}})
    began = time.monotonic()
    answer, came = poll(fleet, "press-01", etag)
    assert answer.status_code == 200
    assert came - began < 2
    assert fleet.stop() == 0
    fleet.render(FLEET | {"press-01": {"hmi": b"while the server was down\n"}})
    fleet.start()
    again, _ = poll(fleet, "press-01", answer.headers["ETag"])
    assert again.json()["manifestVersion"] == 3


def test_f12_no_change_of_many_is_missed_by_who_polls_again(fleet: ServedFleet) -> None:
    fleet.start()
    versions: list[int] = []

    def follow(etag: str) -> None:
        with fleet.client("press-01") as client:
            while not versions or versions[-1] < 11:
                answer = client.get(MANIFEST, headers={"If-None-Match": etag, "Prefer": "wait=2"})
                if answer.status_code == 200:
                    etag = answer.headers["ETag"]
                    versions.append(answer.json()["manifestVersion"])

    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow, etag_of(fleet, "press-01"))
        for number in range(10):
            fleet.render(FLEET | {"press-01": {"hmi": b"%d\n" % number}})
        following.result(20)
    assert versions == sorted(set(versions))
    assert versions[-1] == 11


def test_too_many_waits_of_one_device_are_answered_at_once(fleet: ServedFleet) -> None:
    fleet.start()
    etag = etag_of(fleet, "press-01")
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(poll, fleet, "press-01", etag, 4) for _ in range(2)]
        until_waiting(fleet, 2)
        began = time.monotonic()
        answer, came = poll(fleet, "press-01", etag, 4)
        assert came - began < 2
        assert answer.status_code == 304
        assert [each.result()[0].status_code for each in waiting] == [304, 304]


def test_a_server_that_ends_answers_who_waits(fleet: ServedFleet) -> None:
    fleet.start()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(poll, fleet, "press-01", etag_of(fleet, "press-01"))
        until_waiting(fleet)
        time.sleep(1.1)
        began = time.monotonic()
        assert fleet.stop() == 0
        answer, came = waiting.result()
    assert answer.status_code == 304
    assert came - began < 5
    # Nothing to hold against the server: a device that hears how long the wait was polls again at once.
    assert 1 <= int(answer.headers["Preference-Applied"].removeprefix("wait=")) <= came - began + 2


@pytest.mark.parametrize("limits", [{"waitSeconds": 0}])
def test_where_waiting_is_off_nobody_waits(fleet: ServedFleet, limits: dict[str, int]) -> None:
    fleet.start(limits=limits)
    etag, began = etag_of(fleet, "press-01"), time.monotonic()
    answer, came = poll(fleet, "press-01", etag)
    assert answer.status_code == 304
    assert came - began < 2
    assert "Preference-Applied" not in answer.headers


def test_devices_are_told_how_often_to_poll_where_the_operator_says_so(fleet: ServedFleet) -> None:
    fleet.start(limits={"pollSeconds": 300})
    with fleet.client("press-01") as client:
        first = client.get(MANIFEST)
        idle = client.get(MANIFEST, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.headers["X-Poll-Interval"], idle.status_code, idle.headers["X-Poll-Interval"]) == ("300", 304, "300")


def test_devices_decide_how_often_to_poll_where_nobody_says_so(fleet: ServedFleet) -> None:
    fleet.start()
    with fleet.client("press-01") as client:
        assert "X-Poll-Interval" not in client.get(MANIFEST).headers

"""A copy of a device is noticed by its boots, and a device that is restarted is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.server.identity.boots import BootWatch

BOOTS = [f"boot-number-{number}" for number in range(20)]


def sees(watch: BootWatch, boot: str | None, client: str = "press-07", token: str = "one") -> bool:
    headers = [(b"authorization", token.encode())]
    if boot is not None:
        headers.append((b"device-boot", boot.encode("latin-1")))
    return watch.sees_copy(client, {"type": "http", "headers": headers})


@given(st.lists(st.integers(1, 5), max_size=20))
def test_one_machine_is_never_taken_for_two(polls: list[int]):
    watch = BootWatch()
    assert not any(sees(watch, boot) for boot, times in zip(BOOTS, polls, strict=False) for _ in range(times))


@given(st.integers(1, 4), st.integers(1, 4))
def test_two_machines_are_noticed_when_the_first_calls_again(restarts: int, of_the_copy: int):
    watch, copy = BootWatch(), BOOTS[10:]
    assert not any(sees(watch, boot) for boot in BOOTS[:restarts])
    assert not any(sees(watch, boot) for boot in copy[:of_the_copy])
    assert sees(watch, BOOTS[restarts - 1])


def test_other_tokens_other_devices_and_what_is_not_a_boot_say_nothing():
    watch = BootWatch()
    for boot in (BOOTS[0], BOOTS[1]):
        sees(watch, boot)
    assert not sees(watch, BOOTS[0], token="two")
    assert not sees(watch, BOOTS[0], client="press-08")
    for boot in (None, "", "x" * 65, "boot number", "\xff" * 20):
        assert not sees(watch, boot)
    assert sees(watch, BOOTS[0])

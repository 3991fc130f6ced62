import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from testbed import places
from testbed.errors import UnavailableError
from testbed.parts import Part, bring_up, take_down, using


@dataclass(frozen=True)
class Lamp:
    environment: dict[str, str] = field(default_factory=dict)


def start_lamp(state: Path) -> Lamp:
    if not (state / "lit").exists():
        (state / "lit").touch()
        with (state / "history").open("a") as history:
            history.write("start\n")
    return Lamp()


def stop_lamp(state: Path) -> None:
    (state / "lit").unlink(missing_ok=True)
    with (state / "history").open("a") as history:
        history.write("stop\n")


LAMP = Part("lamp", start_lamp, lambda state: Lamp() if (state / "lit").exists() else None, stop_lamp)
_SPAWN = multiprocessing.get_context("spawn")


def use(state, entered, leave):
    with using(LAMP, state):
        entered.release()
        leave.wait(60)


def history(state):
    return (state / "history").read_text().split()


def users(state, count):
    """Processes that use the lamp, and the event that lets them go."""
    entered, leave = _SPAWN.Semaphore(0), _SPAWN.Event()
    processes = [_SPAWN.Process(target=use, args=(state, entered, leave)) for _ in range(count)]
    for process in processes:
        process.start()
    for _ in processes:
        assert entered.acquire(timeout=60)
    return processes, leave


def test_many_users_share_one_start_and_the_last_one_stops_it(tmp_path):
    processes, leave = users(tmp_path, 4)
    assert history(tmp_path) == ["start"]

    leave.set()
    for process in processes:
        process.join(60)

    assert history(tmp_path) == ["start", "stop"]


def test_what_a_person_brought_up_stays_up_after_the_tests(tmp_path):
    bring_up(LAMP, tmp_path)

    with using(LAMP, tmp_path):
        pass
    assert history(tmp_path) == ["start"]

    assert take_down(LAMP, tmp_path)
    assert history(tmp_path) == ["start", "stop"]


def test_taking_down_what_a_test_run_uses_is_left_to_the_test_run(tmp_path):
    bring_up(LAMP, tmp_path)

    with using(LAMP, tmp_path):
        assert not take_down(LAMP, tmp_path)
        assert history(tmp_path) == ["start"]

    assert history(tmp_path) == ["start", "stop"]


def test_a_killed_user_does_not_keep_a_part_in_use(tmp_path):
    [process], _ = users(tmp_path, 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)

    with using(LAMP, tmp_path):
        pass

    assert history(tmp_path) == ["start", "stop"]


def test_a_part_that_cannot_start_is_in_nobodys_use(tmp_path):
    def refuse(state):
        raise UnavailableError("no bulb", "buy one")

    broken = Part("lamp", refuse, LAMP.find, LAMP.stop)
    with pytest.raises(UnavailableError, match="remedy: buy one"), using(broken, tmp_path):
        pass

    assert not places.in_use(tmp_path / "locks/lamp-users")


def test_state_below_a_long_path_moves_to_a_short_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGO_GITOPS_TESTBED", str(tmp_path / ("long" * 30)))

    folder = places.state_folder()

    assert len(bytes(folder)) < 60
    assert folder.stat().st_mode & 0o077 == 0
    assert folder == places.state_folder()
    folder.rmdir()


def test_state_stays_where_the_person_wants_it(monkeypatch):
    monkeypatch.setenv("MARGO_GITOPS_TESTBED", "/var/tmp/tb")

    assert places.state_folder() == Path("/var/tmp/tb")


def test_waiting_for_a_condition_ends_at_its_deadline():
    from testbed.processes import wait_until

    assert not wait_until(lambda: False, 0.05)

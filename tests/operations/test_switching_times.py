"""A plan says when devices will change, and `explain` which calendars count and where they are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder

from margo_gitops.documents.maintenance import Blackout, Calendar, Window
from margo_gitops.operations.plan.plan_text import causes
from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.plan.switching_times import opening_text

NIGHTS = {"timeZone": "Europe/Berlin", "windows": [{"days": "FREQ=DAILY", "start": "02:00", "duration": "2h"}]}
NOON = int(datetime(2026, 12, 1, 11, tzinfo=UTC).timestamp())


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.site("north", maintenance=NIGHTS)
    fleet.site("south")
    for site in ("north", "south"):
        fleet.device(f"{site}-1", site=site)
    fleet.device("north-2", site="north")
    fleet.application()
    fleet.deployment("web")
    fleet.deployment("alarm", urgent=True)
    fleet.commit()
    return fleet


def notes(fleet: FleetFolder, at: int = NOON) -> tuple[str, ...]:
    cache = fleet.root.parent / "cache"
    return plan_fleet(PlanRequest(fleet.root, None, None, None, cache, at=at)).notes[1:]


def test_a_plan_says_when_the_devices_of_a_site_change(fleet: FleetFolder):
    assert notes(fleet) == (
        "2 devices (north-1, north-2): can change from Wednesday 2026-12-02 02:00 CET on, by site north",
    )
    later = notes(fleet, NOON + 14 * 3600)
    assert later == (
        "2 devices (north-1, north-2): can change now, until Wednesday 2026-12-02 04:00 CET, by site north",
    )


def test_a_calendar_or_a_lock_that_comes_or_goes_is_one_line(fleet: FleetFolder):
    folder, state = fleet.root.parent, str(fleet.root.parent / "state.git")

    def reasons() -> list[tuple[str, str]]:
        plan = plan_fleet(PlanRequest(fleet.root, None, None, state, folder / "cache", at=NOON))
        return [(each.deployment, each.what) for each in causes(plan)]

    assert margo_gitops("render", "--fleet", fleet.root, "--state-repo", state, cwd=folder).code == 0
    fleet.site("north")
    fleet.site("south", maintenance=NIGHTS)
    fleet.deployment("alarm", urgent=True, locks=[{"name": "batch", "file": "batch.lock"}])
    assert reasons() == [
        ("alarm", "locks.batch of deployment alarm added"),
        ("web", "maintenance of site north removed"),
        ("web", "maintenance of site south added"),
    ]
    fleet.site("north", maintenance={**NIGHTS, "timeZone": "Europe/Paris"})
    assert ("web", 'maintenance.0.timeZone "Europe/Berlin" -> "Europe/Paris"') in reasons()


def test_without_calendars_it_says_nothing(fleet: FleetFolder):
    fleet.site("north")
    assert notes(fleet) == ()


def test_calendars_that_never_open_and_unknown_zones_are_named():
    night = Window("FREQ=DAILY", "02:00", "1h")
    noon = Window("FREQ=DAILY", "12:00", "1h")
    never = (Calendar("UTC", (night,), (), "site north"), Calendar("UTC", (noon,), (), "deployment web"))
    assert opening_text(never, NOON) == "can never change: site north and deployment web are not open at once"
    assert opening_text((Calendar("UTC", (), (Blackout("2026-01-01", "2099-01-01"),), "site north"),), NOON) == (
        "can never change: site north does not open within two years"
    )
    assert "the time zone of x is not known here" in opening_text((Calendar("Mars/Olympus", (night,), (), "x"),), NOON)


def test_plan_and_explain_show_what_a_device_does_around_a_change(fleet: FleetFolder):
    folder, state = fleet.root.parent, str(fleet.root.parent / "state.git")
    assert margo_gitops("render", "--fleet", fleet.root, "--state-repo", state, cwd=folder).code == 0
    settings = {
        "onFailure": "rollback",
        "onDrift": "respect",
        "locks": [{"name": "batch", "file": "batch.lock"}],
        "hooks": {"before": ["drain", "park"], "after": ["resume"]},
        "health": {"exec": ["pg_isready", "-q"], "within": "2m"},
        "stop": ["elsewhere", "monitor"],
    }
    fleet.deployment("web", **settings)
    fleet.deployment("monitor")
    fleet.deployment("elsewhere", on=["south-1"])
    plan = plan_fleet(PlanRequest(fleet.root, None, None, state, folder / "cache", at=NOON))
    shown = {each.what.partition(" ")[0] for each in causes(plan)}
    assert {
        "onFailure",
        "onDrift",
        "locks.batch",
        "hooks.before",
        "hooks.after",
        "health.exec",
        "health.within",
    } <= shown
    said = margo_gitops("explain", "north-1", "web", cwd=fleet.root).stdout.splitlines()
    lines = [line for line in said if "deployments/web.yaml:" in line]
    assert [line.rpartition("  ")[0] for line in lines] == [
        "  lock         name batch; file batch.lock; of deployment web",
        "  hooks        before drain park; after resume",
        "  health       exec pg_isready -q; within 2m",
        "  onFailure    rollback",
        "  onDrift      respect",
        "  stop         monitor",
    ]
    places = [line.rpartition("  ")[2].split(":")[1] for line in lines]
    assert len(set(places)) == len(lines), "each has a line of its own"
    told = json.loads(margo_gitops("explain", "north-1", "web", "--output", "json", cwd=fleet.root).stdout)
    assert {each["name"]: each["value"] for each in told["settings"]}["onFailure"] == "rollback"


def test_hooks_without_a_program_are_refused(fleet: FleetFolder):
    fleet.deployment("web", hooks={})
    assert "names no program" in margo_gitops("validate", cwd=fleet.root).stdout


def test_explain_names_the_calendars_that_count(fleet: FleetFolder):
    fleet.deployment("web", maintenance=NIGHTS)
    said = margo_gitops("explain", "north-1", "web", cwd=fleet.root).stdout
    assert "changes      only while site north is open  sites/north.yaml:" in said
    assert "changes      only while deployment web is open  deployments/web.yaml:" in said
    assert "can change" in said
    urgent = margo_gitops("explain", "north-1", "alarm", cwd=fleet.root).stdout
    assert "changes      at any time: urgent  deployments/alarm.yaml:" in urgent

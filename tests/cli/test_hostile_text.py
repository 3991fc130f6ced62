"""What people, suppliers and devices write reaches no output with characters that a terminal or a page obeys."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, parameter, rules
from support.reporting import Reporter

from margo_gitops.agent.memory.events import Event, EventLog, LogFormat, Reason

ROOT = Path(__file__).parents[2]
HOSTILE = "<x>\x1b[31m\x9b2J\u202e\u2066\ue000\n::error::y"
VALUE = HOSTILE.replace("\x1b", "")
"""A parameter may hold no control character below U+0020."""


def run(fleet: FleetFolder, *arguments: str) -> str:
    """Return everything that a command prints."""
    outcome = margo_gitops(*arguments, cwd=fleet.root)
    return outcome.stdout + outcome.stderr


def harmless(text: str) -> bool:
    return all(each.isprintable() or each in "\n\t" for each in text) and "\n::error::y" not in text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    """A fleet where everything that may hold any text is hostile, rendered, reported on, then changed."""
    fleet = FleetFolder.empty(tmp_path_factory.mktemp("hostile") / "fleet")
    fleet.application(
        metadata={
            "name": HOSTILE,
            "version": "1.0.0",
            "description": HOSTILE,
            "catalog": {
                "application": {"tagline": HOSTILE, "tags": [HOSTILE]},
                "organization": [{"name": HOSTILE}],
                "author": [{"name": HOSTILE}],
            },
        },
        parameters={"setting": parameter(value=VALUE), "other": parameter(value="x", pointer="OTHER")},
        configuration=rules({"dataType": "string", "allowEmpty": True}),
    )
    fleet.site("north", labels={"place": HOSTILE})
    fleet.device("press-01", site="north", labels={"line": HOSTILE}, properties={"vendor": HOSTILE})
    fleet.deployment("web", parameters={"setting": VALUE})
    for path in fleet.root.rglob("*.yaml"):
        path.write_text(json.dumps(json.loads(path.read_text())))  # as escapes, which YAML reads too
    fleet.pin()
    fleet.commit(HOSTILE)
    assert "1 device changed" in run(fleet, "render")
    Reporter(fleet.root.parent / "state.git").report("press-01", "failed", error=HOSTILE)
    fleet.change("deployments/web.yaml", r"::error::y", r"::error::y!")
    fleet.put("applications.lock", fleet.root.joinpath("applications.lock").read_text())
    return fleet


COMMANDS = [
    "app list",
    "app list --output json",
    "app add applications/app/1.0.0 --dry-run",
    "app show app",
    "app show app --output json",
    "app validate applications/app/1.0.0",
    "audit log",
    "audit log --output json",
    "audit trace press-01",
    "audit trace press-01 --output json",
    "audit verify",
    "catalog list",
    "catalog list --output json",
    "catalog show app",
    "catalog show app --output json",
    "catalog show app --compatible --details",
    "catalog show app --compatible --output json",
    "deploy app --set setting={hostile} --dry-run",
    "deploy app --set nothing={hostile} --dry-run",
    "deploy app --to line={hostile} --dry-run",
    "device list",
    "device list --output yaml",
    "device show press-01",
    "device show press-01 --output json",
    "device show {hostile}",
    "document check applications/app/1.0.0/margo.yaml devices/press-01.yaml {hostile}",
    "document check deployments/web.yaml --output json",
    "explain press-01 web",
    "explain press-01 web --output json",
    "explain press-01 {hostile}",
    "plan",
    "plan --details",
    "plan --output json",
    "plan --output markdown",
    "render",
    "render --output json",
    "render --rev {hostile}",
    "status",
    "status --details",
    "status --output json",
    "status --output yaml",
    "status {hostile}",
    "status --label line={hostile}",
    "status --config={hostile}",
    "revert {hostile}",
    "revert HEAD",
    "validate",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(world: FleetFolder, command: str):
    words = [word.replace("{hostile}", HOSTILE) for word in command.split()]
    printed = run(world, *words)
    assert printed
    assert harmless(printed), printed


@pytest.mark.parametrize("form", ["github", "gitlab", "json", "junit", "sarif", "text"])
def test_no_finding_prints_it_in_any_format(tmp_path: Path, form: str):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.put("devices/a\x1b\u202e\nb.yaml", "x: y")
    fleet.put("sites/b.yaml", json.dumps({"apiVersion": HOSTILE, HOSTILE: HOSTILE}))
    fleet.git.init()
    printed = run(fleet, "validate", "--output", form)
    assert r"\u202e" in printed
    assert harmless(printed), printed
    if form in ("gitlab", "sarif"):  # a page shows what JSON's escapes stand for
        texts = [text for text in _texts(json.loads(printed)) if "sites/b.yaml" not in text]
        assert all(text.isprintable() for text in texts if not text.startswith("devices/"))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _texts(child)]


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_of_an_agent_is_one_harmless_line(form: LogFormat):
    log = io.StringIO()
    EventLog(form, lambda: 0.0, log).write(Event(Reason.WORKLOAD_FAILED, HOSTILE, subject=HOSTILE))
    assert harmless(log.getvalue())
    assert log.getvalue().count("\n") == 1


def test_every_command_prints_through_one_module():
    """`click.echo` knows nothing of hostile text: bytes of a file and codes for a screen are all that it prints."""
    others = {
        (path.name, call)
        for path in (ROOT / "margo_gitops/cli").glob("*.py")
        for call in re.findall(r"(?:click\.s?echo|\bprint|stdout\.write)\((\S+)", path.read_text(encoding="utf-8"))
    }
    assert others - {("output.py", call) for _, call in others} == {
        ("completion.py", "script)"), ("freshness.py", "content,"), ("status.py", "_CLEAR")
    }  # fmt: skip

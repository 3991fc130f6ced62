"""`margo-gitops catalog`: what people type, what they see."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, parameter, rules

GREETING = "com-example-greeting"
SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.git.init()
    return fleet


def follows(schema: str, text: str) -> dict[str, object]:
    document = json.loads(text)
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / schema).read_text())).validate(document)
    return document


def test_the_list_has_a_line_for_each_application_and_its_newest_version(fleet: FleetFolder):
    fleet.application("app", "1.9.0")
    fleet.application("app", "1.10.0")
    fleet.application("app", "1.10.0-rc.1")
    done = margo_gitops("catalog", "list", cwd=fleet.root)
    assert done.code == 0, done
    assert [" ".join(line.split()) for line in done.stdout.splitlines()][:3] == [
        "application newest versions profiles devices about",
        "app 1.10.0 3 compose 0 App",
        f"{GREETING} 1.0.0 1 compose, helm 3 Greeting: The first workload of a new fleet",
    ]
    listed = follows(
        "application-catalog.schema.json", margo_gitops("catalog", "list", "--output", "json", cwd=fleet.root).stdout
    )
    assert listed["applications"][0]["versions"] == ["1.10.0", "1.10.0-rc.1", "1.9.0"]
    assert listed["applications"][1]["deployments"] == [{"name": "greeting", "version": "1.0.0", "devices": 3}]


def test_a_page_tells_what_the_supplier_says_and_escapes_what_could_move_the_cursor(fleet: FleetFolder):
    folder = fleet.application(
        metadata={
            "name": "Vision\x1b[31m",
            "version": "1.0.0",
            "description": "Looks.\nAnd sees.",
            "catalog": {
                "organization": [{"name": "Acme", "site": "https://acme.example"}],
                "author": [{"name": "Ada", "email": "ada@acme.example"}],
                "application": {
                    "icon": "./resources/icon.png",
                    "releaseNotes": "resources/news.md",
                    "licenseFile": "LICENSE",
                    "site": "https://acme.example/vision",
                    "tagline": "Sees",
                    "tags": ["camera", "ai"],
                },
            },
        },
        pin=False,
        parameters={"setting": parameter(value=5)},
        configuration=rules({"dataType": "integer", "minValue": 1, "maxValue": 9}, immutable=True),
    )
    for path in ("resources/icon.png", "resources/news.md", "LICENSE"):
        fleet.put(f"{folder}/{path}", "x")
    fleet.pin()
    done = margo_gitops("catalog", "show", "app", cwd=fleet.root)
    assert done.code == 0, done
    assert "\x1b" not in done.stdout
    for told in (
        "app 1.0.0: Vision\\x1b[31m\n  Sees\n  Looks.\n  And sees.\n",
        "by            Acme (https://acme.example)",
        "author        Ada <ada@acme.example>",
        "site          https://acme.example/vision",
        "tags          camera, ai",
        f"release notes {folder}/resources/news.md",
        f"icon          {folder}/resources/icon.png",
        f"licence       {folder}/LICENSE",
        "deployed      nowhere",
        'General\n  setting: "Setting"  (immutable: may not change after the first installation)\n',
        "    integer, at least 1, at most 9\n    default 5\n",
    ):
        assert told in done.stdout, done
    page = follows(
        "catalog-page.schema.json", margo_gitops("catalog", "show", "app", "--output", "json", cwd=fleet.root).stdout
    )
    assert page["sections"][0]["settings"][0]["immutable"] is True


def test_compatible_names_the_devices_and_the_reasons_against_the_others(fleet: FleetFolder):
    done = margo_gitops("catalog", "show", GREETING, "--compatible", cwd=fleet.root)
    assert done.code == 0, done
    assert done.stdout.startswith(f"{GREETING} 1.0.0: 3 of 4 devices could take it, 3 have it\n")
    assert '    profile "greeting-helm": the type is helm, the device supports custom\n' in done.stdout
    arguments = ("catalog", "show", GREETING, "--compatible", "--site", "south", "--output", "json")
    found = follows("compatibility.schema.json", margo_gitops(*arguments, cwd=fleet.root).stdout)
    assert {each["device"]: each["profiles"] for each in found["devices"]} == {
        "cell-01": ["greeting-helm"],
        "mixer-01": ["greeting-compose"],
    }


def test_a_commit_can_be_looked_at(fleet: FleetFolder):
    fleet.commit()
    fleet.remove(f"applications/{GREETING}")
    fleet.remove("deployments")
    fleet.pin()
    assert margo_gitops("catalog", "show", GREETING, cwd=fleet.root).code == 1
    assert margo_gitops("catalog", "show", GREETING, "--rev", "HEAD", cwd=fleet.root).code == 0


MISTAKES = {
    "an application": (("com-example-greting",), 1, "did you mean com-example-greeting?"),
    "a version": ((GREETING, "9.9.9"), 1, "versions in this fleet repo: 1.0.0"),
    "a device": ((GREETING, "--compatible", "--device", "press-02"), 1, "did you mean press-01?"),
    "a site": ((GREETING, "--compatible", "--site", "nort"), 1, "did you mean north?"),
    "a filter alone": ((GREETING, "--site", "north"), 2, "go with --compatible"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(fleet: FleetFolder, mistake: str):
    arguments, code, said = MISTAKES[mistake]
    done = margo_gitops("catalog", "show", *arguments, cwd=fleet.root)
    assert done.code == code, done
    assert said in done.stderr

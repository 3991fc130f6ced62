"""`validate` finds in one run whatever a render would refuse, and what is not pinned; each with rule and place."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.fleet import FleetFolder, parameter, profile, rules
from support.properties import times

from margo_gitops.catalog.compose_images import ServiceImage, pinning_rule
from margo_gitops.errors import FleetCommitUnknown, FleetInvalid, Location, NoFleetRepo, RenderingRefused
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.operations.validate.finding_formats import FORMATS
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet
from margo_gitops.operations.validate.rule_findings import RuleFinding, Validation
from margo_gitops.operations.validate.rules import RULES
from margo_gitops.rendering.intent import _root


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """The template, committed."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    return fleet


def validate(fleet: FleetFolder, **more: str | None) -> Validation:
    given = {"revision": None, "since": None, "state": None, **more}
    return validate_fleet(ValidateRequest(fleet.root, cache=fleet.root.parent / "cache", **given))


def errors(fleet: FleetFolder, **more: str | None) -> list[str]:
    return [f"{each.rule} {each.place}" for each in validate(fleet, **more).findings if each.severity == "error"]


def of_rule(found: Validation, rule: str) -> list[RuleFinding]:
    return [each for each in found.findings if each.rule == rule]


def test_the_template_has_no_errors_and_is_warned_of_its_images_where_their_names_are_written(fleet: FleetFolder):
    found = validate(fleet)
    assert (found.errors, found.notes) == (0, 0)
    assert {(each.rule, Path(each.file or "").name, each.line is not None) for each in found.findings} == {
        ("R202", "margo.yaml", True)
    }


def test_a_time_zone_that_does_not_exist_is_told_where_it_is_written(fleet: FleetFolder):
    fleet.change("sites/north.yaml", "spec:\n", "spec:\n  maintenance: {timeZone: Europe/Berlni}\n")
    assert errors(fleet) == ["R110 sites/north.yaml:8:27"]


def test_everything_that_is_wrong_is_told_in_one_run(fleet: FleetFolder):
    fleet.put("sites/west.yaml", "x: [")
    fleet.put("deployments/other.yml", "")
    fleet.change("devices/sensor-01.yaml", "supportedDeploymentTypes: [custom]", "supportedDeploymentTypes: [helm]")
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    fleet.change("deployments/greeting.yaml", "device.id", "device.nothing")
    fleet.change("deployments/greeting.yaml", "press-01, mixer-01", "press-99, mixer-01")
    fleet.change("applications/com-example-greeting/1.0.0/resources/description.md", "", "more\n")
    found = {(each.rule, each.file) for each in validate(fleet).findings if each.severity == "error"}
    assert found >= {
        ("MG1002", "sites/west.yaml"),
        ("R102", "deployments/other.yml"),
        ("MG1201", "deployments/line-monitor.yaml"),
        ("MG1206", "deployments/greeting.yaml"),
        ("R107", "applications/com-example-greeting/1.0.0"),
    }


def test_a_name_that_may_stand_in_an_unreadable_document_is_not_told_as_unknown(fleet: FleetFolder):
    fleet.put("devices/cell-01.yaml", "x: [")
    assert errors(fleet) == ["MG1002 devices/cell-01.yaml:1:4"]


def test_what_follows_from_another_finding_is_not_told(fleet: FleetFolder):
    fleet.change("devices/press-01.yaml", "site: north", "site: nort")
    assert errors(fleet) == ["MG1206 devices/press-01.yaml:9:9"]


def test_parameters_are_judged_although_a_reference_is_broken(fleet: FleetFolder):
    fleet.change("deployments/greeting.yaml", "1.0.0", "9.0.0")
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    assert errors(fleet) == ["MG1206 deployments/greeting.yaml:8:14", "MG1204 deployments/line-monitor.yaml:22:26"]


def test_one_mistake_that_concerns_many_devices_is_one_finding(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.application(parameters={"setting": parameter()}, configuration=rules({"dataType": "integer", "maxValue": 1}))
    for number in range(5):
        fleet.device(f"d{number}")
    fleet.deployment("web", parameters={"setting": 2})
    fleet.commit()
    (found,) = [each for each in validate(fleet).findings if each.severity == "error"]
    assert (found.rule, found.devices) == ("MG1204", 5)
    assert "and 4 more devices" in FORMATS["text"](validate(fleet))


def test_a_commit_is_checked_as_it_is_whatever_the_files_say(fleet: FleetFolder):
    fleet.put("sites/west.yaml", "x: [")
    assert errors(fleet, revision="HEAD") == []
    assert errors(fleet) != []


def test_settings_that_may_not_change_are_checked_where_the_state_repo_is_given(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    rule = rules({"dataType": "integer"}, immutable=True)
    fleet.application(parameters={"setting": parameter()}, configuration=rule)
    fleet.device("a")
    fleet.deployment("web", parameters={"setting": 1})
    fleet.commit()
    render_fleet(RenderRequest(fleet.root, "HEAD", None, tmp_path / "cache"))
    fleet.deployment("web", parameters={"setting": 2})
    assert errors(fleet) == []
    (found,) = errors(fleet, state=str(tmp_path / "state.git"))
    assert found.startswith("MG1204 deployments/web.yaml:")


def test_a_folder_that_is_no_fleet_repo_and_an_unknown_commit_are_errors_of_their_own(fleet: FleetFolder):
    with pytest.raises(FleetCommitUnknown):
        validate(fleet, since="nothing")
    fleet.remove("margo-gitops.yaml")
    with pytest.raises(NoFleetRepo):
        validate(fleet)


def test_since_shows_changed_files_and_what_the_change_caused_elsewhere(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    fleet.commit("An old mistake")
    fleet.remove("devices/cell-01.yaml")
    fleet.put("sites/west.yaml", "x: [")
    assert errors(fleet, since="HEAD") == [
        "MG1206 deployments/greeting.yaml:10:35",
        "MG1002 sites/west.yaml:1:4",
    ]
    assert "MG1204 deployments/line-monitor.yaml:22:26" in errors(fleet)
    fleet.commit("A new mistake")
    assert errors(fleet, since="HEAD~1", revision="HEAD") == errors(fleet, since="HEAD~1")
    assert errors(fleet, since="HEAD") == []


def test_since_shows_an_old_finding_of_a_changed_file(fleet: FleetFolder):
    fleet.change("deployments/line-monitor.yaml", "intervalSeconds: 60", "intervalSeconds: 0")
    fleet.commit("An old mistake")
    fleet.change("deployments/line-monitor.yaml", "kind: Deployment", "kind: Deployment  # touched")
    assert errors(fleet, since="HEAD") == ["MG1204 deployments/line-monitor.yaml:22:26"]


EDITS = {
    "site label": ("sites/north.yaml", "north", "nord"),
    "device type": ("devices/press-01.yaml", "[compose]", "[helm]"),
    "device site": ("devices/mixer-01.yaml", "site: south", "site: west"),
    "interval": ("deployments/line-monitor.yaml", "60", "0"),
    "expression": ("deployments/line-monitor.yaml", "site.name", "site.nothing"),
    "application": ("deployments/greeting.yaml", "id: com-example-greeting", "id: com-example-greting"),
    "version": ("deployments/greeting.yaml", "1.0.0", "2.0.0"),
    "device": ("deployments/greeting.yaml", "cell-01", "cell-02"),
    "key": ("deployments/greeting.yaml", "placement:", "placment:"),
    "after": ("deployments/line-monitor.yaml", "[greeting]", "[line-monitor]"),
    "comment": ("deployments/greeting.yaml", "kind: Deployment", "kind: Deployment  # fine"),
    "lock": ("applications.lock", "1.0.0", "1.0.1"),
    "empty": ("deployments/greeting.yaml", 'greeting: "', 'greeting: "x'),
}


@times(2)
@given(st.sets(st.sampled_from(sorted(EDITS)), max_size=4))
def test_validate_has_errors_if_and_only_if_a_render_is_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: set[str]
):
    fleet = FleetFolder.from_template(tmp_path_factory.mktemp("fleet") / "fleet")
    fleet.git.init()
    for name in sorted(edits):
        path, old, new = EDITS[name]
        text = (fleet.root / path).read_text()
        (fleet.root / path).write_text(text.replace(old, new))
    found = validate(fleet)
    reasons = refusal(fleet)
    assert (found.errors > 0) == bool(reasons)
    told = {(each.file, each.line) for each in found.findings}
    assert {(where.file, where.line) for where in reasons if where} <= told


def refusal(fleet: FleetFolder) -> list[Location | None]:
    """Return the places that a render names when it refuses the fleet; empty where it renders."""
    try:
        fleet.render()
    except FleetInvalid as error:
        return [each.location for each in error.findings]
    except RenderingRefused as error:
        return [each.where for each in error.errors]
    return []


COMPOSE = """\
x-common: &common
  image: registry.example.com/common
services:
  pinned:
    image: example/app:1.0@sha256:{digest}
  version:
    image: "example/app:1.0"
  moving: {{image: 'example/app:latest'}}
  built:
    build: {{context: .}}
  named-build:
    build: .
    image: registry.example.com:5000/app
  merged:
    <<: *common
    environment: {{image: not-one}}
  variable:
    image: ${{IMAGE:-example/other:2.0}}
"""


def composed(tmp_path: Path, content: bytes | str, image: str | None = None, *, archive: bool = False) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", artifacts={"baseUrl": "https://files.example.com/applications/"})
    name = "content.tar.gz" if archive else "content"
    path = {"x-margo-gitops-extensions": {"artifact": {"path": name}}}
    component = profile()["components"][0] | path
    given = {"parameters": {"image": parameter(pointer="IMAGE")}} if image else {}
    folder = fleet.application(deploymentProfiles=[profile() | {"components": [component]}], pin=False, **given)
    data = content.encode() if isinstance(content, str) else content
    fleet.put(f"{folder}/{name}" if archive else f"{folder}/content/compose.yaml", data)
    fleet.pin()
    if not archive:
        fleet.fleet(artifacts={"baseUrl": "file:///srv/applications/"})
    fleet.device("a")
    fleet.deployment("web", parameters={"image": image} if image else {})
    fleet.commit()
    return fleet


def test_images_that_are_not_pinned_are_warnings_at_their_line(tmp_path: Path):
    found = validate(composed(tmp_path, COMPOSE.format(digest="0" * 64)))
    assert found.errors == 0
    lines = {(each.rule, each.line) for each in found.findings}
    pins = {("R201", 2), ("R202", 7), ("R201", 8), ("R203", 10), ("R201", 13), ("R202", 18)}
    assert lines == pins | {("MG1610", 10), ("MG1610", 12)}  # devices build nothing by default


def test_an_image_named_by_a_parameter_is_told_where_the_parameter_is_written(tmp_path: Path):
    fleet = composed(tmp_path, "services: {web: {image: '$IMAGE'}}\n", "example/app:edge")
    (found,) = validate(fleet).findings
    assert (found.rule, found.file) == ("R201", "deployments/web.yaml")
    fleet.deployment("web", parameters={"image": f"example/app:1.0@sha256:{'0' * 64}"})
    assert validate(fleet).findings == ()


def packed(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_an_archive_is_looked_into(tmp_path: Path):
    archive = packed(**{"compose.yaml": b"services: {web: {image: example/app}}\n"})
    (found,) = validate(composed(tmp_path, archive, archive=True)).findings
    assert (found.rule, found.place) == ("R201", "applications/app/1.0.0/content.tar.gz")


@pytest.mark.parametrize(
    ("content", "archive"),
    [
        (b"\x1f\x8b broken", True),
        (b"services: [", False),
        (b"\xff\xff", False),
        (b"x" * 2_000_000, False),
        (b"[" * 5_000, False),
        (b"a: &a [x]\nb: [" + b"*a, " * 120_000 + b"]\n", False),
    ],
)
def test_content_that_cannot_be_looked_into_is_an_error(tmp_path: Path, content: bytes, archive: bool):
    found = validate(composed(tmp_path, content, archive=archive))
    assert [(each.severity, each.rule) for each in found.findings] == [("error", "R204")]


def test_a_compose_file_that_cannot_run_and_a_pointer_that_cannot_be_set_are_errors(tmp_path: Path):
    fleet = composed(tmp_path, b"services: {web: {image: '${IMGAE}', imagee: x, volumes: ['./data:/data']}}\n")
    fleet.change(
        "applications/app/1.0.0/margo.yaml",
        '"deploymentProfiles"',
        f'"parameters": {json.dumps({"port": parameter(pointer="PORTS.80", value=1)})}, "deploymentProfiles"',
    )
    fleet.pin()
    found = [each for each in validate(fleet).findings if each.severity == "error"]
    assert [each.rule for each in found] == ["R210", "R208", "R209"]
    assert all(each.file and each.file.startswith("applications/app/1.0.0/") and each.line for each in found)


@pytest.mark.parametrize("characters", [131_066, 131_067])
def test_a_value_that_no_environment_variable_holds_is_an_error_where_it_is_written(tmp_path: Path, characters: int):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.application(parameters={"text": parameter(pointer="TEXT")})
    fleet.device("a")
    fleet.deployment("web", parameters={"text": "x" * characters})
    fleet.commit()
    found = [f"{each.rule} {each.file}" for each in validate(fleet).findings if each.severity == "error"]
    assert found == (["MG1204 deployments/web.yaml"] if characters > 131_066 else [])


def test_components_from_a_registry_are_noted_and_urls_without_a_digest_warned_of(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    older = {"name": "old", "properties": {"packageLocation": "https://files.example.com/old.tar.gz"}}
    fleet.application(deploymentProfiles=[profile(), {"type": "compose", "id": "old", "components": [older]}])
    fleet.device("a")
    fleet.deployment("web", profiles=["compose"])
    fleet.commit()
    found = validate(fleet)
    assert [(each.rule, each.severity) for each in found.findings] == [("R206", "note"), ("R205", "warning")]


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        ("app", "R201"),
        ("app:latest", "R201"),
        ("app:Main", "R201"),
        ("registry.example.com:5000/app", "R201"),
        ("registry.example.com:5000/app:1", "R202"),
        ("app:1.2.3", "R202"),
        (f"app@sha256:{'0' * 64}", None),
        (f"app:1@sha256:{'0' * 64}", None),
        ("", "R201"),
    ],
)
def test_what_pins_an_image(image: str, rule: str | None):
    assert pinning_rule(image) == rule


@pytest.mark.parametrize(
    ("written", "environment", "named"),
    [
        ("$A", {"A": "x"}, "x"),
        ("${A}:1", {"A": "x"}, "x:1"),
        ("${A:-y}", {}, "y"),
        ("${A-y}", {}, "y"),
        ("${A:+z}", {"A": "x"}, "z"),
        ("${A:+z}", {}, ""),
        ("${A:?gone}", {"A": "x"}, "x"),
        ("$$A", {"A": "x"}, "$A"),
    ],
)
def test_variables_are_replaced_as_compose_does(written: str, environment: dict[str, str], named: str):
    assert ServiceImage("web", written, Location("compose.yaml")).named(environment) == named


def test_a_compose_file_at_a_url_is_noted_because_nobody_looks_into_it(tmp_path: Path):
    fleet = FleetFolder.empty(tmp_path / "fleet")
    component = profile()["components"][0] | {
        "x-margo-gitops-extensions": {
            "artifact": {"url": "https://files.example.com/ui.tar.gz", "digest": f"sha256:{'0' * 64}"}
        }
    }
    fleet.application(deploymentProfiles=[profile() | {"components": [component]}])
    fleet.commit()
    (found,) = of_rule(validate(fleet), "R207")
    assert (found.severity, found.file) == ("note", "applications/app/1.0.0/margo.yaml")
    assert found.line is not None


def test_every_finding_has_the_severity_of_its_rule(fleet: FleetFolder):
    fleet.put("sites/west.yaml", "x: [")
    fleet.put("deployments/other.yml", "")
    for each in validate(fleet).findings:
        assert RULES[each.rule].severity == each.severity


def test_every_rule_says_what_it_is_and_what_to_do():
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        assert rule.id == name
        assert rule.title.endswith(".")
        assert len(rule.text.split()) >= 8
        assert f"\n## {name}\n" in page


def test_the_json_follows_the_schema_in_the_repository(fleet: FleetFolder):
    fleet.put("sites/west.yaml", "x: [")
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "validation.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(FORMATS["json"](validate(fleet))))


def test_a_warning_that_nobody_can_act_on_is_silenced_with_a_reason_and_counted(fleet: FleetFolder):
    before = validate(fleet)
    assert (before.warnings, before.silenced) == (2, 0)
    silence = """  policy:
    silenced:
      - {rule: R202, files: applications/com-example-greeting, reason: The supplier has no digests}
      - {rule: R2022, reason: A slip}
      - {rule: R202, files: applications/com-acme-*, reason: It is not there any more}
      - {rule: MG1206, reason: An error}
"""
    fleet.put("margo-gitops.yaml", (fleet.root / "margo-gitops.yaml").read_text() + silence)
    after = validate(fleet)
    assert (after.errors, after.warnings, after.silenced) == (0, 2, 1)
    assert [each.rule for each in after.findings] == ["R202", "R303", "R304", "R304"]
    assert "2 warnings, 2 notes, 1 warning silenced by the policy" in FORMATS["text"](after)
    fleet.change("deployments/greeting.yaml", "cell-01]", "cell-1]")
    assert errors(fleet) == ["MG1206 deployments/greeting.yaml:10:35"]


def test_an_overlay_that_matches_no_device_of_its_deployment_is_noted(fleet: FleetFolder):
    assert of_rule(validate(fleet), "R109") == []
    fleet.change("deployments/line-monitor.yaml", "devices: [sensor-01]", "matchLabels: {lnie: 1}")
    (found,) = of_rule(validate(fleet), "R109")
    assert (found.severity, found.place) == ("note", "deployments/line-monitor.yaml:20:9")
    assert found.remedy == "no device has the label lnie; did you mean line?"
    fleet.change("deployments/line-monitor.yaml", "matchLabels: {lnie: 1}", "devices: [cell-01]")
    assert of_rule(validate(fleet), "R109")[0].remedy == "correct it, or remove the overlay"


def test_a_deployment_that_stops_one_of_other_devices_is_noted(fleet: FleetFolder):
    both = "spec: {application: {id: com-example-greeting, version: 1.0.0}, placement: {devices: [%s]}}\n"
    head = "apiVersion: margo-gitops/v1\nkind: Deployment\nmetadata: {name: other}\n"
    fleet.put("deployments/other.yaml", head + both % "cell-01")
    fleet.change("deployments/greeting.yaml", "mixer-01, cell-01]", "mixer-01]\n  stop: [other]")
    (found,) = of_rule(validate(fleet), "R111")
    assert (found.severity, found.place) == ("note", "deployments/greeting.yaml:11:10")
    fleet.put("deployments/other.yaml", head + both % "mixer-01")
    assert of_rule(validate(fleet), "R111") == []


def test_places_are_looked_up_only_for_what_is_found(tmp_path: Path):
    fleet = composed(tmp_path, "services: {web: {image: '$IMAGE'}}\n", f"example/app:1.0@sha256:{'0' * 64}")
    fleet.device("b", image=f"example/app:2.0@sha256:{'0' * 64}")
    _root.cache_clear()
    assert validate(fleet).findings == ()
    assert _root.cache_info().misses == 1  # the pointers of the application

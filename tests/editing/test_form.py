"""A form takes what a render takes, refuses what it refuses at once, and ends in the request that `deploy` gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, States, parameter, profile, rules

from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.editing.deploy import DeployRequest, deploy_target
from margo_gitops.editing.form.form import Answers, Form, ParameterQuestion, PlacementQuestion, ProfileQuestion
from margo_gitops.editing.form.form_checks import FormCheck
from margo_gitops.editing.form.form_text import all_devices, prompt_text, question_lines, selector_text
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.editing.values import picked
from margo_gitops.errors import AnswerRefused, MargoGitopsError, ParameterNotTyped, ReferenceUnknown, SelectorInvalid
from margo_gitops.rendering.difference import rendered_fleet
from margo_gitops.rendering.render import render


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """Two devices at the site north, one elsewhere that is too small; an application with one integer setting."""
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.site("north")
    fleet.device("press-01", site="north", labels={"line": 1})
    fleet.device("press-02", site="north", labels={"line": 2})
    fleet.device("tiny", properties={"memory": "1 Gi"})
    describe(fleet, {"dataType": "integer", "minValue": 1, "maxValue": 9}, value=5)
    return fleet


def describe(fleet: FleetFolder, schema: dict[str, Any], *, value: Any = None, immutable: bool = False) -> None:
    """Give the application one setting."""
    fleet.application(
        deploymentProfiles=[profile(deviceConstraints={"capacityRequirements": {"memory": "2Gi"}})],
        parameters={"setting": parameter(value=value)},
        configuration=rules(schema, immutable=immutable),
    )


def form(fleet: FleetFolder, states: States | None = None, name: str | None = None, **answers: Any) -> Form:
    intent = fleet.read()
    previous = rendered_fleet((states or {}).values()).previous
    check = FormCheck(intent, deploy_target(intent, "app", None, name), previous)
    return Form(check, Answers(**answers)).begin()


def shown(at: Form) -> str:
    return "\n".join(question_lines(at))


def test_the_questions_are_the_sections_then_the_devices(fleet: FleetFolder):
    at = form(fleet)
    assert [type(each) for each in at.questions] == [ParameterQuestion, PlacementQuestion]
    assert shown(at).splitlines() == [
        "General: Setting",
        "  integer, at least 1, at most 9",
        "  now the application's default 5",
    ]
    assert prompt_text(at) == "setting"
    done = at.answered("7").answered("site=north")
    assert done.question is None
    assert done.request() == DeployRequest(
        "app", "1.0.0", "app", DeviceSelector(sites=("north",)), {"setting": 7}, (), ()
    )


def test_what_is_not_answered_stays_as_it_is(fleet: FleetFolder):
    fleet.deployment("web", on=["press-01"], parameters={"setting": 3})
    at = form(fleet)
    assert "  now 3; the application's default is 5" in shown(at)
    assert "  now device=press-01  (1 device)" in shown(at.answered(""))
    assert at.answered("").answered("").request() == DeployRequest("app", "1.0.0", "web")


@pytest.mark.parametrize(
    ("typed", "told"), [("0", "at least 1"), ("ten", "must be an integer"), ("7.5", "must be an integer")]
)
def test_a_value_is_judged_at_once_and_a_refused_one_changes_nothing(fleet: FleetFolder, typed: str, told: str):
    at = form(fleet)
    with pytest.raises(ParameterNotTyped, match=told):
        at.answered(typed)
    assert (at.at, at.answers) == (0, Answers())


def test_a_kept_value_that_breaks_a_rule_is_refused_too(fleet: FleetFolder):
    fleet.deployment("web", on=["press-01"], parameters={"setting": 30})
    with pytest.raises(ParameterNotTyped, match="at most 9"):
        form(fleet).answered("")
    assert form(fleet).answered("9").answers.parameters == {"setting": 9}


def test_an_expression_is_evaluated_on_the_devices_that_have_the_deployment(fleet: FleetFolder):
    fleet.device("press-02", site="north", labels={"line": 20})
    fleet.deployment("web", on=["press-01", "press-02"])
    at = form(fleet)
    with pytest.raises(AnswerRefused) as refused:
        at.answered("{{ device.labels.line }}")
    (why,) = refused.value.why
    assert why.startswith('press-02: parameter setting ("Setting") must be at most 9, is 20')
    with pytest.raises(AnswerRefused, match="cannot be this"):
        at.answered("{{ device.labels.lin }}")
    assert at.answered("{{ device.labels.line % 10 + 1 }}").at == 1


def test_a_value_that_nothing_gives_is_needed(fleet: FleetFolder):
    describe(fleet, {"dataType": "string", "allowEmpty": False})
    with pytest.raises(AnswerRefused, match="setting needs a value"):
        form(fleet).answered("")
    with pytest.raises(ParameterNotTyped, match="must not be empty"):
        form(fleet).emptied()
    fleet.site("north", setting="from the site")
    assert form(fleet).answered("").at == 1


def test_a_value_is_taken_out_of_the_deployment(fleet: FleetFolder):
    fleet.deployment("web", on=["press-01"], parameters={"setting": 3})
    assert form(fleet).defaulted().request().unset == ("setting",)
    again = form(fleet).defaulted().back().answered("4").request()
    assert (again.unset, again.parameters) == ((), {"setting": 4})
    fleet.remove("deployments")
    assert form(fleet).answered("4").back().defaulted().request().parameters == {}


def test_an_immutable_setting_may_not_change_where_it_is_installed(fleet: FleetFolder):
    describe(fleet, {"dataType": "integer"}, value=5, immutable=True)
    fleet.deployment("web", on=["press-01", "press-02"], parameters={"setting": 3})
    fleet.device("press-02", site="north", labels={"line": 2}, setting=8)
    states = fleet.render()
    at = form(fleet, states)
    assert "  immutable: it may not change after the first installation" in shown(at)
    assert at.answered("").at == at.answered("3").at == 1
    with pytest.raises(AnswerRefused) as refused:
        at.answered("4")
    (why,) = refused.value.why
    assert why.startswith('press-01: parameter setting ("Setting") may not change any more: it was installed as 3')
    with pytest.raises(AnswerRefused, match="cannot be this"):
        at.defaulted()
    with pytest.raises(AnswerRefused, match="cannot be this"):
        form(fleet, states, parameters={"setting": 4})
    assert form(fleet).answered("4").at == 1  # nothing was rendered: nothing is installed
    assert form(fleet, states, name="other").answered("4").at == 1


def test_devices_are_picked_from_those_that_could_take_it(fleet: FleetFolder):
    at = form(fleet).answered("")
    assert shown(at).splitlines() == [
        "Devices",
        "  2 of 3 devices could take it",
        "    1  north/press-01  compose",
        "    2  north/press-02  compose",
        "  Type a selector (line=3,site=north), all, or numbers of this list (1,3-5).",
    ]
    assert at.answered("2").request().placement == DeviceSelector(devices=("press-02",))
    assert at.answered("1-2").request().placement == DeviceSelector(devices=("press-01", "press-02"))
    assert "  1 device: tiny" in list(all_devices(at))
    fleet.deployment("web", on={"sites": ["north"], "devices": ["press-01"]})
    again = form(fleet).answered("").answered("1").back()
    assert "  now device=press-01  (1 device)" in shown(again)


PLACES = {
    "nothing": ("", AnswerRefused, "say which devices"),
    "a device that cannot take it": ("all", AnswerRefused, "1 of 3 devices cannot take it: tiny"),
    "no device": ("line=9", AnswerRefused, "no device is selected"),
    "an unknown site": ("site=nort", ReferenceUnknown, "nort is not a site"),
    "an unknown device": ("device=press-03", ReferenceUnknown, "press-03 is not a device"),
    "no selector": ("line in 1", SelectorInvalid, "is not a selector"),
    "a number too great": ("1,3", AnswerRefused, "3 is not a number of the list"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_judged_at_once(fleet: FleetFolder, place: str):
    typed, error, told = PLACES[place]
    with pytest.raises(error, match=told):
        form(fleet).answered("").answered(typed)


def test_profiles_are_asked_for_where_a_device_could_run_several(fleet: FleetFolder):
    fleet.application(deploymentProfiles=[profile("small"), profile("large"), profile("chart", "helm")])
    at = form(fleet, placement=DeviceSelector(all=True)).answered("")
    assert isinstance(at.question, ProfileQuestion)
    assert shown(at).splitlines()[1:3] == ["    1  small: 3 devices", "    2  large: 3 devices"]
    for typed in ("", "tiny", "3"):
        with pytest.raises((AnswerRefused, ReferenceUnknown)):
            at.answered(typed)
    with pytest.raises(AnswerRefused, match="3 of 3 devices cannot take it"):
        at.answered("chart")
    assert at.answered("2,1").request().profiles == ("large", "small")
    assert at.answered("large").request().profiles == ("large",)
    fleet.deployment("web", profiles=["small"])
    assert form(fleet).answered("").question is None


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        ({"dataType": "string", "options": ["eco", "fast", "1"]}, "2", "fast"),
        ({"dataType": "string", "options": ["eco", "fast", "1"]}, "1", "1"),
        ({"dataType": "integer", "options": [10, 20]}, "2", 20),
        ({"dataType": "integer", "options": [2, 4]}, "2", 2),
        ({"dataType": "array[string]", "multiselect": True, "options": ["a, b", "c"]}, "1,2", ("a, b", "c")),
        ({"dataType": "array[string]", "multiselect": True, "options": ["a, b", "c"]}, "a, b", ("a, b",)),
        ({"dataType": "boolean"}, "y", True),
        ({"dataType": "boolean"}, "No", False),
        ({"dataType": "array[integer]"}, "1,2", (1, 2)),
        ({"dataType": "string"}, "y", "y"),
    ],
    ids=str,
)
def test_an_answer_has_the_type_that_the_application_wants(
    fleet: FleetFolder, schema: dict[str, Any], typed: str, value: object
):
    describe(fleet, schema)
    answered = form(fleet).answered(typed).answers.parameters["setting"]
    assert (answered, type(answered)) == (value, type(value))


def test_an_application_without_sections_asks_for_its_parameters(fleet: FleetFolder):
    fleet.application(parameters={"greeting": parameter(value="Hello"), "count": parameter(value=1)})
    at = form(fleet)
    assert shown(at).splitlines()[0] == "Parameters: greeting"
    done = at.answered("Servus").answered("2").answered("all")
    assert done.request().parameters == {"greeting": "Servus", "count": 2}


KEYS = {":back": Form.back, ":default": Form.defaulted}
TYPED = st.sampled_from(["", "1", "9", "10", "x", "{{ device.labels.line }}", "all", "site=north", "1-2", *KEYS])


@given(answers=st.lists(TYPED))
def test_whatever_is_typed_the_request_renders(folder: FleetFolder, answers: list[str]):
    intent = folder.read()
    before = rendered_fleet(folder.render().values()).previous
    at = form(folder)
    for typed in answers:
        if at.question is None:
            break
        try:
            at = KEYS[typed](at) if typed in KEYS else at.answered(typed)
        except MargoGitopsError:
            continue
    while at.question is not None:
        at = at.answered("")
    known, request = intent.deployments["web"], at.request()
    spec = known.value.spec
    kept = {name: value for name, value in spec.parameters.items() if name not in request.unset}
    spec = replace(spec, parameters={**kept, **request.parameters}, placement=request.placement or spec.placement)
    changed = replace(known, value=replace(known.value, spec=spec))
    assert len(render(replace(intent, deployments={"web": changed}), before)) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path_factory.mktemp("form") / "fleet")
    fleet.site("north")
    fleet.device("press-01", site="north", labels={"line": 1})
    fleet.device("press-02", site="north", labels={"line": 2})
    fleet.device("tiny", properties={"memory": "1 Gi"})
    describe(fleet, {"dataType": "integer", "minValue": 1, "maxValue": 9}, value=5)
    fleet.deployment("web", on=["press-01"], parameters={"setting": 3})
    return fleet


SELECTORS = ("all", "device=a", "device in (a, b)", "site=north", "line=3", "site in (n, s),line=3", "!line", "line>3",
             "line in (1, 2),line notin (3),spare")  # fmt: skip


@pytest.mark.parametrize("typed", SELECTORS)
def test_a_placement_is_shown_as_it_is_typed(fleet: FleetFolder, typed: str):
    assert selector_text(parse_selector(typed, fleet.read())) == typed


def test_devices_that_come_on_top_are_shown_as_such():
    assert selector_text(DeviceSelector(sites=("north",), devices=("a", "b"))) == "site=north plus device in (a, b)"


@given(st.lists(st.integers(1, 30), min_size=1))
def test_numbers_are_taken_in_their_order_each_once(numbers: list[int]):
    assert picked(" , ".join(map(str, numbers)), 30) == tuple(dict.fromkeys(numbers))


@pytest.mark.parametrize("typed", ["line=1", "a1", "1;2", "", "1-", "-1"])
def test_what_is_no_list_of_numbers_is_something_else(typed: str):
    assert picked(typed, 9) is None


@pytest.mark.parametrize("typed", ["0", "10", "5-3", "1-10"])
def test_numbers_outside_the_list_are_refused(typed: str):
    with pytest.raises(AnswerRefused, match="is not a number of the list"):
        picked(typed, 9)

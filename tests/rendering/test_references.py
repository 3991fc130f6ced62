"""Everything that a document names must exist; what is missing is named with its place and a suggestion."""

from collections.abc import Callable

import pytest
from support.fleet import FleetFolder, parameter, rules

from margo_gitops.errors import MargoGitopsError, ReferenceUnknown, RenderingRefused
from margo_gitops.rendering.explanation import check_intent
from margo_gitops.rendering.render import find_placements


@pytest.fixture
def sound(fleet: FleetFolder) -> FleetFolder:
    fleet.site("north")
    fleet.device("press-01", site="north")
    fleet.application(parameters={"setting": parameter(value=1)})
    fleet.deployment("base")
    fleet.deployment("web", after=["base"])
    assert fleet.render()["press-01"].deployments
    return fleet


def refusals(fleet: FleetFolder) -> list[MargoGitopsError]:
    with pytest.raises(RenderingRefused) as caught:
        fleet.render()
    return list(caught.value.errors)


Change = Callable[[FleetFolder], None]

BROKEN: list[tuple[str, str, str, Change]] = [
    ("devices/a.yaml", "nort is not a site", "did you mean north?", lambda f: f.device("a", site="nort")),
    ("devices/gw/a.yaml", "gw/a is a child of gw", "add a Device gw", lambda f: f.device("gw/a")),
    ("devices/a.yaml", "zz is not a parameter of any", "known: setting", lambda f: f.device("a", zz=1)),
    ("sites/south.yaml", "settin is not a parameter of any", "mean setting?", lambda f: f.site("south", settin=1)),
    ("deployments/x.yaml", "press-1 is not a device", "mean press-01?", lambda f: f.deployment("x", on=["press-1"])),
    ("deployments/x.yaml", "zz is not a site", "known: north", lambda f: f.deployment("x", on={"sites": ["zz"]})),
    ("deployments/x.yaml", "wep is not a deployment", "did you mean web?", lambda f: f.deployment("x", after=["wep"])),
    ("deployments/x.yaml", "wep is not a deployment", "did you mean web?", lambda f: f.deployment("x", stop=["wep"])),
    ("deployments/x.yaml", "ap is not an application", "did you mean app?", lambda f: f.deployment("x", "ap")),
    ("deployments/x.yaml", "no version 2.0.0 of", "app add", lambda f: f.deployment("x", version="2.0.0")),
    ("deployments/x.yaml", "helm is not a profile", "known: compose", lambda f: f.deployment("x", profiles=["helm"])),
    (
        "deployments/x.yaml",
        "sett is not a parameter of app",
        "did you mean setting?; or remove it: margo-gitops deploy app --name x --unset sett",
        lambda f: f.deployment("x", parameters={"sett": 1}),
    ),
    (
        "deployments/x.yaml",
        "nowhere is not a device",
        "known: press-01",
        lambda f: f.deployment("x", overlays=[{"name": "o", "match": {"devices": ["nowhere"]}, "parameters": {}}]),
    ),
    (
        "deployments/x.yaml",
        "none is not a parameter of app",
        "known: setting",
        lambda f: f.deployment("x", overlays=[{"name": "o", "match": {"all": True}, "parameters": {"none": 1}}]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "message", "remedy", "change"), BROKEN, ids=[case[1] for case in BROKEN])
def test_a_name_that_nobody_defines_is_an_error_with_place_and_remedy(
    sound: FleetFolder, file: str, message: str, remedy: str, change: Change
):
    change(sound)
    (error,) = refusals(sound)
    assert isinstance(error, ReferenceUnknown)
    assert message in str(error)
    assert remedy in error.remedy
    assert error.where is not None
    assert error.where.file == file
    assert error.where.line is not None


SHARDS: list[tuple[dict[str, list[str]], str]] = [
    ({"east": ["nort"], "rest": []}, "nort is not a site; did you mean north?"),
    ({"east": ["north"], "west": ["north"], "rest": []}, "site north is in the shards east and west"),
    ({"east": [], "west": []}, "the shards east and west both have the sites that no other shard names"),
    ({"east": ["south"]}, "no shard has the devices of site north"),
]


@pytest.mark.parametrize(("shards", "message"), SHARDS, ids=[case[1] for case in SHARDS])
def test_every_device_is_in_exactly_one_shard(sound: FleetFolder, shards: dict[str, list[str]], message: str):
    sound.site("south")
    sound.fleet(shards={name: {"url": f"../{name}.git", "sites": sites} for name, sites in shards.items()})
    (error,) = refusals(sound)
    assert message.split(";")[0] in str(error)
    assert error.where is not None
    assert error.where.file == "margo-gitops.yaml"
    assert error.remedy


def test_all_broken_references_are_named_in_one_run(sound: FleetFolder):
    sound.device("a", site="nort")
    sound.deployment("x", "ap", after=["wep"])
    assert len(refusals(sound)) == 3


@pytest.mark.parametrize("chain", [["web"], ["base", "web"]], ids=["itself", "each other"])
def test_deployments_that_wait_for_each_other_are_refused(sound: FleetFolder, chain: list[str]):
    for name, first in zip(chain, chain[1:] + chain[:1], strict=True):
        sound.deployment(name, after=[first])
    (error,) = refusals(sound)
    assert "deployments wait for each other" in str(error)
    assert all(name in str(error) for name in chain)


def test_a_deployment_does_not_stop_what_must_be_there_before_it(sound: FleetFolder):
    sound.deployment("web", after=["base"], stop=["base"])
    (error,) = refusals(sound)
    assert "wait for each other" in str(error)
    sound.deployment("web", stop=["web"])
    assert len(refusals(sound)) == 1


def test_vendored_content_needs_a_place_where_devices_find_it(fleet: FleetFolder):
    fleet.device("a")
    component = {
        "name": "compose",
        "properties": {"repository": "oci://r.example.com/a", "revision": "1.0.0"},
        "x-margo-gitops-extensions": {"artifact": {"path": "files"}},
    }
    fleet.put("applications/app/1.0.0/files/compose.yaml", "services: {}\n")
    fleet.application(deploymentProfiles=[{"type": "compose", "id": "compose", "components": [component]}])
    fleet.deployment("web")
    (error,) = refusals(fleet)
    assert "spec.artifacts.baseUrl is missing" in str(error)
    fleet.fleet(artifacts={"baseUrl": "https://artifacts.example.com/applications/"})
    (error,) = refusals(fleet)
    assert "a folder cannot be fetched by https" in str(error)
    fleet.fleet(artifacts={"baseUrl": "file:///srv/applications/"})
    assert b"file:///srv/applications/app/1.0.0/files" in b"".join(fleet.render()["a"].deployments.values())


def test_a_rule_for_an_unused_parameter_is_no_error(sound: FleetFolder):
    sound.application(
        parameters={"setting": parameter(value="x")}, configuration=rules({"dataType": "string", "allowEmpty": False})
    )
    assert sound.render()["press-01"].changed


def test_a_preferred_profile_that_the_application_lacks_is_told_once_and_not_placed(sound: FleetFolder):
    sound.deployment("web", profiles=["nonsense"])
    intent = sound.read()
    assert [str(error).splitlines()[0] for error in check_intent(intent).errors] == [
        "deployments/web.yaml:16:7: nonsense is not a profile [MG1206]"
    ]
    placements, (error,) = find_placements(intent)
    assert list(placements["press-01"]) == ["base"]
    assert error.why == ('profile "nonsense": the application has no profile of this name',)

"""`margo-gitops keys`: a fleet's root is made, rotated and used by renders, with the real ssh-keygen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.fleet import FleetFolder
from support.git_cli import Git
from support.reporting import Reporter
from support.rooted_fleet import Plant

from margo_gitops.trust.trust_document import first, follow


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.application()
    fleet.device("press-07")
    fleet.deployment("app")
    fleet.commit("Make the fleet")
    return Plant(fleet, tmp_path / "keys")


def test_a_fleet_without_keys_is_rendered_as_before(plant: Plant):
    plant.render()
    assert plant.said("devices/press-07") is None
    assert "trust" not in plant.state.run("branch")


def test_a_root_is_made_signed_and_carried_by_the_state_repo(plant: Plant):
    plant.init()
    assert "needs 2 more of: anna, bert, cleo" in plant.run("keys", "status").stdout
    assert "MG1531" in plant.run("validate", code=1).stdout
    plant.fleet.commit("Make the root")
    assert "MG1531" in plant.render(code=4).stderr
    assert "needs 1 more of: bert, cleo" in plant.sign("anna")
    plant.sign("bert")
    plant.fleet.commit("Sign it")
    plant.run("validate")
    plant.render()
    [content] = plant.documents()
    assert content == (plant.fleet.root / "keys/1.json").read_bytes().strip()
    assert first(content, "plant").signers().signers
    assert [plant.said(ref) for ref in ("fleet", "devices/press-07", "trust")] == ["1"] * 3


def test_a_key_that_no_device_accepts_is_refused_before_anything_moves(plant: Plant):
    plant.rooted()
    plant.render()
    before = plant.state.run("for-each-ref")
    plant.fleet.device("press-08")
    plant.fleet.commit("Add a device")
    refused = plant.render("stranger", code=2)
    assert "its role render lists renderer" in refused.stderr
    assert "sign with one of: renderer; or list this one: margo-gitops keys add render" in refused.stderr
    assert "MG1536" in plant.run("plan", "--signing-key", plant.key("stranger"), code=2).stderr
    assert "no signing key was given" in plant.run("render", code=2).stderr
    assert (
        "for freshness"
        in plant.run(
            "render", "--signing-key", plant.key("renderer"), "--freshness-key", plant.key("anna"), code=2
        ).stderr
    )
    assert plant.state.run("for-each-ref") == before


def test_a_rotation_moves_no_device_and_a_retired_key_signs_nothing_new(plant: Plant):
    plant.rooted()
    plant.render("renderer", "--freshness-key", str(plant.key("renderer")))
    state = plant.state.run("rev-parse", "devices/press-07")
    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "retire", "renderer", "--yes")
    plant.run("keys", "add", "freshness", plant.pub("second"))
    status = json.loads(plant.run("keys", "status", "--output", "json").stdout)
    assert (status["counts"], status["last"]) == (1, 2)
    plant.fleet.commit("Rotate, not signed yet")
    plant.render()  # version 1 counts until version 2 is signed
    plant.sign("cleo", "anna")
    plant.fleet.commit("Rotate")
    assert "it is retired since" in plant.render(code=2).stderr
    rotated = plant.render("second", "--freshness-key", str(plant.key("second")))
    assert "trust   version 2" in rotated.stdout
    assert plant.state.run("rev-parse", "devices/press-07") == state
    one, two = plant.documents()
    assert follow(first(one), two).version == 2
    assert '\\"trustVersion\\":2' in plant.state.run("show", "freshness/all:freshness.json")
    assert "nothing changed" in plant.render("second").stdout
    plant.fleet.device("press-08")
    plant.fleet.commit("Add a device")
    plant.render("second")
    assert (plant.said("devices/press-07"), plant.said("devices/press-08")) == ("1", "2")
    shown = plant.run("keys", "status", "--state-repo", plant.state.path).stdout
    assert (
        "renderer signed the state of 1 device; not adopted yet by press-07\nsecond signed the state of 1 device"
        in shown
    )


def test_what_a_compromised_key_signed_is_signed_again(plant: Plant):
    plant.rooted()
    plant.render()
    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "revoke", "renderer")
    plant.sign("anna", "bert")
    plant.fleet.commit("Revoke")
    assert "press-07: manifest 2" in plant.run("render", "--signing-key", plant.key("second")).stdout
    assert ": SHA256:" in plant.run("keys", "status").stdout.partition("compromised since ")[2]
    assert (
        "remedy: sign with one of: second\n"
        in plant.run("render", "--signing-key", plant.key("renderer"), code=2).stderr
    )


def test_a_change_after_a_signature_takes_it_away_and_a_signed_version_is_never_rendered_otherwise(plant: Plant):
    plant.rooted()
    plant.render()
    plant.run("keys", "renew", "--valid-for", "30d")
    plant.sign("anna")
    assert "signatures that it had are gone" in plant.run("keys", "add", "render", plant.pub("second")).stderr
    plant.fleet.git.run("checkout", "keys")
    (plant.fleet.root / "keys/2.json").unlink(missing_ok=True)
    plant.fleet.remove("keys/1.json")
    plant.init("--valid-for", "30d")
    plant.sign("anna", "bert")
    plant.fleet.commit("Another version 1")
    assert "MG1534" in plant.render(code=4).stderr
    plant.fleet.remove("keys")
    plant.fleet.commit("No keys")
    assert "not in this commit" in plant.render(code=4).stderr


def test_a_signature_made_on_another_machine_is_added(plant: Plant, tmp_path: Path):
    plant.init()
    text = tmp_path / "text"
    text.write_text(plant.run("keys", "show").stdout)
    said = {}
    for name, use, code in (("cleo", "root", 0), ("renderer", "root", 2), ("anna", "trust", 4)):
        sign = ["ssh-keygen", "-Y", "sign", "-q", "-n", f"margo-gitops-{use}", "-f", plant.key(name), text]
        subprocess.run(sign, check=True, capture_output=True)
        said[name] = plant.run("keys", "sign", "--signature", tmp_path / "text.sig", code=code).stderr
        (tmp_path / "text.sig").unlink()
    assert "ssh-keygen -Y sign -n margo-gitops-root -f KEY TEXT" in said["anna"]
    assert "needs 1 more of: anna, bert" in plant.run("keys", "status").stdout


def test_a_text_that_hides_something_is_not_signed(plant: Plant):
    plant.init()
    plant.run("keys", "floor", "--next", "60", "--reason", "lost \u202edetsurt")
    for command in (("show",), ("sign", "--key", plant.key("anna"))):
        refused = plant.run("keys", *command, code=2)
        assert "hides or obeys" in refused.stderr
        assert "\\u202e" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("retire", "nobody"), "has no keys called nobody"),
        (("retire", "anna"), "2 root keys must sign, 1 are there"),
        (("retire", "renderer"), "no key may render"),
        (("revoke", "renderer"), "no key may render"),
        (("add", "render", "PUB"), "the key renderer appears twice"),
        (("add", "render", "margo-gitops.yaml"), "this is not a public key"),
        (("floor", "--reason", "why"), "neither highest nor next"),
    ],
)
def test_a_change_that_cannot_count_is_not_written(plant: Plant, arguments: tuple[str, ...], says: str):
    plant.rooted()
    given = [plant.pub("renderer") if each == "PUB" else each for each in arguments]
    if "anna" in given:
        plant.run("keys", "retire", "bert")
    assert says in plant.run("keys", *given, code=2).stderr


def test_a_floor_is_in_the_next_version(plant: Plant):
    plant.rooted()
    plant.run("keys", "floor", "--highest", "41", "--device", "press-07", "--reason", "a forged version")
    shown = plant.run("keys", "status").stdout
    said = r"^floor-[0-9]{8}-[0-9]{6}-1: highest 41, for press-07: a forged version$"
    assert re.search(said, shown, re.MULTILINE), "no floor of another root has its id"


def test_a_lost_state_repo_is_started_again_above_what_devices_saw(plant: Plant):
    plant.rooted()
    assert "MG1311" in plant.run("render", "--signing-key", plant.key("renderer"), code=2).stderr
    plant.render()
    shutil.rmtree(plant.fleet.root.parent / "state.git")
    assert "state restore" in plant.run("render", "--signing-key", plant.key("renderer"), code=2).stderr
    plant.run("keys", "floor", "--next", "60", "--reason", "the server burned down")
    plant.sign("anna", "cleo")
    plant.fleet.commit("Name the next version")
    assert "press-07: manifest 60" in plant.render().stdout
    assert "nothing changed" in plant.render().stdout
    assert "1 fleet commit and 1 device commit verified" in plant.run("audit", "verify").stdout


def test_the_documents_are_pushed_and_restored_with_the_state(plant: Plant, tmp_path: Path):
    plant.rooted()
    url = Git(tmp_path / "state.git").init(bare=True).path.as_uri()
    plant.render("renderer", "--state-repo", url)
    assert len(plant.documents()) == 1
    plant.run("keys", "renew")
    plant.sign("anna", "bert")
    plant.fleet.commit("Renew")
    assert "nothing changed" in plant.render("renderer", "--state-repo", url).stdout
    assert len(plant.documents()) == 2
    shutil.rmtree(plant.state.path)
    Git(tmp_path / "state.git").init(bare=True)
    plant.run("state", "restore", "--state-repo", url)
    assert len(plant.documents()) == 2
    plant.run("audit", "verify", "--state-repo", url)


def test_a_key_is_not_retired_while_devices_wait_for_what_it_signed(plant: Plant):
    plant.rooted()
    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "retire", "renderer")  # nothing was rendered yet
    plant.fleet.remove("keys/2.json")
    plant.render()
    plant.run("keys", "add", "render", plant.pub("second"))
    refused = plant.run("keys", "retire", "renderer", code=2).stderr
    assert "1 device did not report yet" in refused
    assert "press-07" in refused
    Reporter(plant.state.path).report("press-07")
    shown = json.loads(plant.run("keys", "status", "--state-repo", plant.state.path, "--output", "json").stdout)
    assert (shown["devices"], shown["waiting"]) == ({"renderer": 1}, {"renderer": []})
    plant.run("keys", "retire", "renderer")


def test_without_a_root_another_key_is_told_and_a_lost_state_repo_is_not_begun_again(plant: Plant):
    plant.render()
    plant.fleet.device("press-08")
    plant.fleet.commit("Add a device")
    second = ("--signing-key", plant.key("second"))
    for arguments, told in ((second, True), ((*second, "--resign"), False), ((), False)):
        planned = plant.run("plan", *arguments, code=1).stdout
        checked = plant.run("render", "--check", *arguments, code=1).stderr
        assert [" ".join(each.split()).count("the state was signed by SHA256:") for each in (planned, checked)] == [
            told
        ] * 2
    assert "the state was signed by SHA256:" in plant.run("render", *second).stderr
    assert "the state was" not in plant.run("render", "--check", "--signing-key", plant.key("renderer")).stderr
    plant.fleet.device("press-09")
    plant.fleet.commit("Add another")
    quiet = plant.run("render", "--signing-key", plant.key("third"), "--resign").stderr
    assert "the state was" not in quiet
    plant.fleet.device("press-10")
    plant.fleet.commit("And another")
    assert "the state was signed by" in plant.run("render").stderr
    shutil.rmtree(plant.state.path)
    refused = plant.run("render", "--signing-key", plant.key("third"), code=2).stderr
    assert "MG1311" in refused
    assert "this machine rendered there before" in refused
    plant.run("render", "--signing-key", plant.key("third"), "--create")


def test_audit_judges_each_commit_by_the_document_of_its_time(plant: Plant):
    plant.rooted()
    plant.render()
    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "revoke", "renderer")
    plant.sign("anna", "bert")
    plant.fleet.commit("Revoke")
    plant.run("render", "--signing-key", plant.key("second"))
    verified = plant.run("audit", "verify").stdout
    assert "signed by renderer" in verified
    assert "signed by second" in verified
    forged = plant.state.run("rev-parse", "trust~1")
    plant.state.run("update-ref", "refs/heads/trust", forged)
    assert "not those of the fleet repo" in plant.run("audit", "verify", code=4).stderr


def test_status_of_a_fleet_without_a_root_says_how_to_make_one(plant: Plant):
    assert "margo-gitops keys init" in plant.run("keys", "status", code=2).stderr


def test_a_device_that_was_given_version_1_follows_a_rotation_and_a_floor(plant: Plant, tmp_path: Path):
    plant.rooted()
    plant.render()
    device = tmp_path / "device"
    device.mkdir()
    shutil.copy(plant.fleet.root / "keys/1.json", device)
    configuration = {
        "apiVersion": "margo-gitops/v1",
        "kind": "AgentConfiguration",
        "device": "press-07",
        "stateFolder": "state",
        "source": {"git": {"url": plant.state.path.as_uri()}},
        "trust": {"document": "1.json"},
        "appliers": {"files": {"folder": "applied"}},
    }
    (device / "agent.yaml").write_text(json.dumps(configuration))
    once = ("agent", "once", "--config", device / "agent.yaml")
    plant.run(*once)
    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "revoke", "renderer")
    plant.sign("anna", "bert")
    plant.fleet.commit("Revoke")
    plant.render("second")
    plant.run(*once)
    shutil.rmtree(plant.state.path)
    plant.run("keys", "floor", "--next", "60", "--reason", "the server was lost")
    plant.sign("anna", "cleo")
    plant.fleet.commit("Name the next version")
    plant.render("second")
    plant.run(*once)
    shown = plant.run("agent", "status", "--config", device / "agent.yaml").stdout
    assert "held     version 60" in shown
    assert "trust    version 3, until " in shown
    assert "signed by second" in shown
    assert "FloorChanged: trust document 3 of plant changes the trust floor (floor-" in shown
    assert "-1: the server was lost)" in shown


def test_a_checkpoint_counts_by_a_render_key_of_the_trust_document(plant: Plant):
    plant.rooted()
    plant.render()
    plant.fleet.device("press-08")
    plant.fleet.commit("Add a device")
    plant.render()

    def compact(key: str, code: int = 0) -> str:
        return plant.run("state", "compact", "--keep", "0d", "--signing-key", plant.key(key), code=code).stderr

    assert "no audit would believe its checkpoint" in compact("mallory", 2)
    assert "checkpoints" not in plant.state.run("for-each-ref")
    compact("renderer")
    assert "signed by renderer" in plant.run("audit", "verify").stdout

    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "revoke", "renderer")
    plant.sign("anna", "bert")
    plant.fleet.commit("Distrust")
    assert "the signature of a checkpoint does not count" in plant.run("audit", "verify", code=4).stderr
    assert "may not sign the checkpoint" in plant.run("audit", "log", code=4).stderr
    assert "may not sign" in compact("second", 4)

    # docs/state-repo.md: the archive comes back, and another key signs.
    (archive,) = plant.state.path.parent.glob("*.bundle")
    plant.state.run("bundle", "unbundle", archive)
    (plant.state.path / "shallow").unlink()
    plant.state.run("update-ref", "-d", "refs/heads/checkpoints")
    compact("second")
    assert "signed by second" in plant.run("audit", "verify").stdout

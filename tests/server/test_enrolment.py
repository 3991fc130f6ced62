"""Enrolment with the real server and the real agent: from a code, a file, a key that was named before, and approval."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from server.certificates import Authority
from server.serving import ServedFleet, served_fleet, until
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.trust_documents import RENDERER, ROOTS, carry, document, key, signed

from margo_gitops.digests import sha256
from margo_gitops.documents.enrolment import ENROLMENT_NAMESPACE, ENROLMENT_PATH, EnrolmentRequest
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.trust.enrolment import write_request
from margo_gitops.trust.ssh_key import read_public_key
from margo_gitops.trust.ssh_signature import sign

DOCUMENT = signed(document(expires="2099-01-01T00:00:00Z"), *ROOTS[:2])
BASE = "apiVersion: margo-gitops/v1\nkind: AgentConfiguration\nstateFolder: state\nappliers: {files: {folder: out}}\n"


class Plant:
    """A served fleet that enrols devices, and folders of devices."""

    def __init__(self, fleet: ServedFleet) -> None:
        self.fleet = fleet
        fleet.render({"press-07": {}, "press-08": {}}, key=RENDERER)
        carry(fleet.renderer.git, {1: DOCUMENT})
        (fleet.folder / "trust.json").write_bytes(DOCUMENT)

    def start(self, tls: object = None, **settings: object) -> Plant:
        # The URL names the port, which the server chooses: a secret is printed with the URL, and the tests put theirs.
        self.settings = {"url": f"{self.fleet.scheme}://127.0.0.1:1", **settings}
        more = {"tls": tls} if tls else {}
        self.fleet.start(enrolment=self.settings, **more)
        self.fleet.configure(enrolment={**self.settings, "url": self.fleet.url}, **more)
        return self

    def device(self, *arguments: str | Path, code: int = 0) -> Outcome:
        outcome = margo_gitops("device", *arguments, "--server", "server.yaml", cwd=self.fleet.folder)
        assert outcome.code == code, outcome
        return outcome

    def code(self, device: str = "press-07") -> str:
        return self.device("enroll", device).stdout.strip()

    def agent(self, name: str, *arguments: str | Path, code: int = 0) -> Outcome:
        home = self.fleet.folder / name
        home.mkdir(exist_ok=True)
        (home / "base.yaml").write_text(BASE)
        outcome = margo_gitops("agent", *arguments, "--config", home / "agent.yaml", cwd=home)
        assert outcome.code == code, outcome
        return outcome

    def enroll(self, name: str, given: str, *more: str | Path, code: int = 0) -> Outcome:
        """Enrol the device in a folder with a code."""
        home = self.fleet.folder / name
        home.mkdir(exist_ok=True)
        (home / "code").write_text(given)
        return self.agent(
            name, "enroll", self.fleet.url, "--code-file", "code", "--base", "base.yaml", *more, code=code
        )

    @property
    def without_code(self) -> tuple[str, ...]:
        return ("enroll", self.fleet.url, "--trust-document", "../trust.json", "--base", "base.yaml")

    def once(self, name: str, code: int = 0) -> Outcome:
        return self.agent(name, "once", code=code)

    def log(self) -> str:
        return self.fleet.log.read_text()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with served_fleet(tmp_path) as fleet:
        yield Plant(fleet)


def test_a_device_is_enrolled_with_a_code_and_works(plant: Plant):
    plant.start()
    assert "no state was rendered for press-70 yet" in plant.device("enroll", "press-70").stderr
    code = plant.code()
    said = plant.enroll("a", code)
    assert "this is press-07" in said.stdout
    assert "SHA256:" in said.stderr
    assert "holds version 1" in plant.once("a").stdout
    home = plant.fleet.folder / "a"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir() if path.name != "state"}
    assert {modes[name] for name in ("agent.yaml", "device-key", "trust.json")} == {0o600}
    [token_file] = home.glob("token*")
    assert modes[token_file.name] == 0o600
    secret, token = code.split(".")[-2], token_file.read_text()
    stored = [path.read_text("latin-1") for path in plant.fleet.folder.glob("state.git/**/*") if path.is_file()]
    for place in (plant.log(), *stored):
        assert secret not in place
        assert token not in place


def test_the_kit_finds_that_only_who_may_is_enrolled(plant: Plant):
    plant.start(approval="person")
    (plant.fleet.folder / "token").write_text(plant.fleet.token("press-07"))
    device = ("--device", "press-07", "--token-file", "token", "--reports", "none", "--output", "json")
    outcome = margo_gitops("conformance", "http", plant.fleet.url, *device, cwd=plant.fleet.folder)
    found = {each["requirement"]: each["verdict"] for each in json.loads(outcome.stdout)["results"]}
    asked = ("H-S-25", "H-S-27", "H-S-28", "H-S-29")
    assert [found[each] for each in asked] == ["pass"] * len(asked), outcome
    assert "press-07" not in plant.device("enrolments").stdout


def test_a_used_secret_is_worth_nothing_to_another_device(plant: Plant):
    plant.start()
    code = plant.code()
    plant.enroll("a", code)
    plant.enroll("a", code)  # the same device, once more: a lost answer
    refused = plant.enroll("thief", code, code=4)
    assert "MG1713" in refused.stderr
    assert "used by another key" in plant.log()
    assert not (plant.fleet.folder / "thief/agent.yaml").exists()
    plant.once("a")


def test_the_next_enrolment_of_an_id_replaces_the_one_before(plant: Plant):
    plant.start()
    plant.enroll("old", plant.code())
    plant.once("old")
    again = plant.device("enroll", "press-07")
    assert "is enrolled now with SHA256:" in again.stderr
    plant.once("old")  # until the new secret is used
    plant.enroll("new", again.stdout.strip())
    plant.once("new")
    plant.once("old", code=3)
    assert "press-07: its token is replaced" in plant.log()


def test_a_file_has_all_that_a_device_needs(plant: Plant):
    plant.start()
    plant.device("enroll", "press-07", "--output", "press-07.enrolment")
    file = plant.fleet.folder / "press-07.enrolment"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    plant.agent("a", "enroll", file, "--base", "base.yaml")
    assert "holds version 1" in plant.once("a").stdout


def test_a_device_trusts_the_authority_that_it_was_given_and_no_other(plant: Plant):
    authority = Authority()
    authority.issued.write(plant.fleet.folder, "authority")
    authority.server().write(plant.fleet.folder, "server")
    Authority().issued.write(plant.fleet.folder, "other")
    plant.fleet.scheme = "https"
    plant.start(caFile="authority.pem", tls={"certificate": "server.pem", "key": "server.key"})
    code = plant.code()
    assert "MG1401" in plant.enroll("a", code, "--ca-file", "../other.pem", code=3).stderr
    plant.enroll("a", code, "--ca-file", "../authority.pem")
    plant.device("enroll", "press-08", "--output", "press-08.enrolment")
    plant.agent("b", "enroll", plant.fleet.folder / "press-08.enrolment", "--base", "base.yaml")
    for name in "ab":
        assert "holds version 1" in plant.once(name).stdout


def test_a_fleet_without_a_server_enrols_with_the_same_command(plant: Plant):
    url = f"file://{plant.fleet.folder}/state.git"
    enrolled = margo_gitops(
        "device", "enroll", "press-07", "--git", url, "--trust-document", "trust.json", "--output", "stick",
        cwd=plant.fleet.folder,
    )  # fmt: skip
    assert enrolled.code == 0, enrolled
    plant.agent("a", "enroll", plant.fleet.folder / "stick", "--base", "base.yaml")
    assert "holds version 1" in plant.once("a").stdout
    assert not list((plant.fleet.folder / "a").glob("token*"))


def test_a_key_that_was_named_before_needs_no_secret(plant: Plant):
    plant.start()
    home = plant.fleet.folder / "a"
    home.mkdir()
    (home / "made.pub").write_text(f"{key(77).public} maker")
    asking = plant.without_code
    plant.agent("a", *asking, code=4)
    plant.device("enroll", "press-07", "--public-key", home / "made.pub")
    plant.agent("a", *asking, code=4)  # its own key is another one
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = key(77)._private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (home / "made").write_bytes(private)
    plant.agent("a", *asking, "--key", "made")
    plant.once("a")


def test_a_device_without_a_secret_waits_until_a_person_approves_it(plant: Plant):
    plant.start(approval="person")
    asking = (
        "enroll",
        plant.fleet.url,
        "--trust-document",
        "../trust.json",
        "--device",
        "press-07",
        "--base",
        "base.yaml",
    )
    waits = plant.agent("a", *asking, code=75)
    assert "MG1714" in waits.stderr
    [row] = json.loads(plant.device("enrolments", "--output", "json").stdout)
    assert (row["device"], row["state"]) == ("press-07", "pending")
    assert row["key"] in waits.stderr
    assert "MG1808" in plant.device("approve", "press-08", "--fingerprint", row["key"], code=2).stderr
    approved = plant.device("approve", "press-07", "--fingerprint", row["key"])
    plant.agent("a", *asking)
    plant.once("a")
    plant.device("revoke", "press-07")
    token = next((plant.fleet.folder / "a").glob("token*")).read_text()
    with plant.fleet.client(headers={"Authorization": f"Bearer {token}"}) as client:
        until(lambda: client.get("/api/v1/deployments").status_code == 403)
    plant.agent("a", *asking, code=4)
    # What approval printed is the edit that says whose key signs the receipts.
    fleet = FleetFolder.empty(plant.fleet.folder / "plant")
    fleet.device("press-07")
    file = fleet.root / "devices/press-07.yaml"
    file.write_text(f"# The press by the door\n{file.read_text()}")
    fleet.commit("Add the press")
    _, _, command = approved.stderr.strip().partition("margo-gitops ")
    for _ in range(2):
        done = margo_gitops(*shlex.split(command), cwd=fleet.root)
        assert done.code == 0, done
    held = yaml.safe_load(file.read_text())["spec"]["receiptKeys"]
    assert [f"ssh-ed25519 {each.split()[1]}" for each in held] == held
    assert read_public_key(*held[0].split()).fingerprint == row["key"]
    assert file.read_text().startswith("# The press by the door\n")


def test_a_device_can_pull_by_git_from_the_server_and_report_to_it(plant: Plant):
    plant.start(source="git")
    plant.enroll("a", plant.code())
    written = read_yaml((plant.fleet.folder / "a/agent.yaml").read_bytes(), "agent.yaml").root.plain()
    assert written["source"]["git"]["url"] == f"{plant.fleet.url}/git/state.git"
    assert written["reports"]["http"]["url"] == plant.fleet.url
    assert "holds version 1" in plant.once("a").stdout


def test_a_server_that_was_killed_knows_its_devices(plant: Plant):
    plant.start()
    code = plant.code()
    plant.enroll("a", code)
    plant.fleet.stop(9)
    plant.start()
    plant.enroll("a", code)
    plant.once("a")
    plant.enroll("b", code, code=4)


def test_a_configuration_of_another_device_stays(plant: Plant):
    plant.start()
    plant.enroll("a", plant.code())
    before = (plant.fleet.folder / "a/agent.yaml").read_bytes()
    refused = plant.enroll("a", plant.code("press-08"), code=2)
    assert "this is press-07, not press-08" in refused.stderr
    assert (plant.fleet.folder / "a/agent.yaml").read_bytes() == before
    plant.once("a")


def calls(plant: Plant, boot: str) -> int:
    """Let a copy of the device in the folder `a` poll, on a machine with this boot; return the status."""
    token = next((plant.fleet.folder / "a").glob("token*")).read_text()
    with plant.fleet.client(headers={"Authorization": f"Bearer {token}", "Device-Boot": boot}) as client:
        return client.get("/api/v1/deployments").status_code


def named(plant: Plant) -> bool:
    outcome = margo_gitops("status", "--state-repo", "state.git", "--output", "json", cwd=plant.fleet.folder)
    copied = {each["device"]: each["copied"] for each in json.loads(outcome.stdout)["devices"]}
    assert copied["press-08"] is None
    return copied["press-07"] is not None


def test_a_copy_of_a_device_is_noticed_and_named_until_it_is_enrolled_again(plant: Plant):
    plant.start()
    plant.enroll("a", plant.code())
    plant.once("a")
    assert calls(plant, "other-machine") == 200  # the device may have been restarted
    assert "there are two of" not in plant.log()
    plant.once("a")
    assert "there are two of press-07" in plant.log()
    assert until(lambda: named(plant))
    said = margo_gitops("status", "--state-repo", "state.git", cwd=plant.fleet.folder).stdout
    assert "north/press-07: there are two of it, with one identity" in said
    assert "copied" in plant.device("enrolments").stdout
    plant.enroll("a", plant.code())
    plant.once("a")
    assert until(lambda: not named(plant))


def test_a_copy_is_refused_where_the_policy_says_so(plant: Plant):
    plant.start(clones="refuse")
    plant.enroll("a", plant.code())
    plant.once("a")
    calls(plant, "other-machine")
    plant.once("a", code=3)
    assert calls(plant, "other-machine") == 403
    plant.fleet.stop()
    plant.start(clones="refuse")
    assert calls(plant, "other-machine") == 403
    plant.enroll("a", plant.code())
    plant.once("a")


def test_a_server_without_the_section_enrols_no_device(plant: Plant):
    plant.fleet.start()
    assert "MG1808" in plant.device("enroll", "press-07", code=2).stderr
    with plant.fleet.client() as client:
        assert client.post("/api/v1/enrolment", content=b"{}").status_code == 404


def test_a_key_that_waits_is_answered_only_so_often_and_replaces_nothing_unseen(plant: Plant):
    plant.start(approval="person")
    plant.enroll("b", plant.code())
    made = [key(30).public, key(31).public]
    trust = sha256(json.loads(DOCUMENT)["document"].encode())

    def asks(seed: int, number: int) -> bytes:
        request = EnrolmentRequest(str(key(seed).public), sha256(b"%d" % number), trust, "press-07")
        return write_request(request, lambda text: sign(text, key(seed), ENROLMENT_NAMESPACE))

    with plant.fleet.client() as client:
        # 300 a minute; on a slow machine some minutes pass meanwhile.
        answers = (client.post(ENROLMENT_PATH, content=asks(30, number)).status_code for number in range(3000))
        assert next(answers) == 202
        assert next(code for code in answers if code != 202) == 429
        assert client.post(ENROLMENT_PATH, content=asks(31, 0)).status_code == 202, "another one is not held up"
    said = plant.device("approve", "press-07", "--fingerprint", made[1].fingerprint).stderr
    assert "press-07 was enrolled with SHA256:" in said

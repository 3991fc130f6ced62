"""`margo-gitops secret`: values that only one device can read, as reviewable edits of the fleet repo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support.command_line import margo_gitops
from support.fleet import FleetFolder, merged, parameter

from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.editing.edit import read_base
from margo_gitops.editing.secrets import rotate_secrets, set_secret
from margo_gitops.errors import EditImpossible
from margo_gitops.trust.sealing import open_sealed, read_identities


def key(seed: int) -> tuple[bytes, str]:
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), public


OLD, NEW = key(1), key(2)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.application(parameters={"password": parameter(pointer="PASSWORD")})
    fleet.device("press-07")
    fleet.device("press-08")
    fleet.deployment("web", secretRefs={"password": {"name": "broker"}})
    fleet.commit()
    with_keys(fleet, secretKeys=[OLD[1]])
    return fleet


def with_keys(fleet: FleetFolder, **spec: object) -> None:
    path = fleet.root / "devices/press-07.yaml"
    plain = read_source(path.read_bytes(), "x").root.plain()
    fleet.put("devices/press-07.yaml", merged(plain, {"spec": spec}))  # type: ignore[arg-type]


def kept(fleet: FleetFolder, name: str = "broker"):
    content = (fleet.root / "devices/press-07.yaml").read_bytes()
    return read_as(Device, read_source(content, "x")).spec.secrets[name]


def put(fleet: FleetFolder, edit) -> None:
    for change in edit.changes:
        (fleet.root / change.path).write_bytes(change.after)


def opened(fleet: FleetFolder, private: bytes = OLD[0]) -> bytes:
    return open_sealed(kept(fleet).sealed, "press-07", "broker", read_identities(private))


def test_the_value_comes_from_standard_input_and_only_the_device_reads_it(fleet: FleetFolder):
    code = "from margo_gitops.cli.main import main; main()"
    command = [sys.executable, "-c", code, "secret", "set", "press-07", "broker"]
    done = subprocess.run(command, input=b"pass\nphrase", cwd=fleet.root, capture_output=True, check=True)
    assert opened(fleet) == b"pass\nphrase"
    assert b"changed devices/press-07.yaml" in done.stdout
    assert b"phrase" not in done.stdout + done.stderr + (fleet.root / "devices/press-07.yaml").read_bytes()
    listed = margo_gitops("secret", "list", "--output", "json", cwd=fleet.root)
    rows = [(row["device"], row["name"], row["current"], row["usedBy"]) for row in json.loads(listed.stdout)]
    assert rows == [("press-07", "broker", True, ["web"]), ("press-08", "broker", True, ["web"])]
    assert "encrypted for SHA256:" in margo_gitops("secret", "list", "press-07", cwd=fleet.root).stdout
    shown = margo_gitops("explain", "press-07", "web", cwd=fleet.root).stdout
    assert "password is the secret broker  -> PASSWORD\n      from the fleet repo, encrypted" in shown
    assert margo_gitops("secret", "remove", "press-07", "broker", cwd=fleet.root).code == 0
    assert b"sealed" not in (fleet.root / "devices/press-07.yaml").read_bytes()


def test_a_new_key_makes_what_is_kept_old_and_the_old_key_opens_it_once_more(fleet: FleetFolder):
    put(fleet, set_secret(read_base(fleet.root), "press-07", "broker", b"value"))
    with_keys(fleet, secretKeys=[NEW[1]])
    assert "not the device's keys now" in margo_gitops("secret", "list", cwd=fleet.root).stdout
    with pytest.raises(EditImpossible) as caught:
        rotate_secrets(read_base(fleet.root), "press-07", [])
    assert "broker: it is encrypted for SHA256:" in str(caught.value)
    put(fleet, rotate_secrets(read_base(fleet.root), "press-07", read_identities(OLD[0])))
    assert opened(fleet, NEW[0]) == b"value"
    with pytest.raises(ValueError, match="none of the keys"):
        opened(fleet, OLD[0])
    assert rotate_secrets(read_base(fleet.root), "press-07", []).changes == ()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"secretKeys": []}, "has no key to encrypt for"),
        ({"secretKeys": [], "receiptKeys": [OLD[1], NEW[1]]}, "which one counts"),
        ({"secretKeys": ["ssh-rsa AAAA"]}, "a key of spec.secretKeys cannot be used"),
    ],
)
def test_keys_that_cannot_count_are_refused(fleet: FleetFolder, spec: dict, why: str):
    with_keys(fleet, **spec)
    with pytest.raises(EditImpossible) as caught:
        set_secret(read_base(fleet.root), "press-07", "broker", b"value")
    assert why in str(caught.value)


def test_the_one_key_of_receipts_is_the_default(fleet: FleetFolder):
    with_keys(fleet, secretKeys=[], receiptKeys=[NEW[1]])
    put(fleet, set_secret(read_base(fleet.root), "press-07", "broker", b"value"))
    assert opened(fleet, NEW[0]) == b"value"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("../x", b"v", "not a secret's name"), ("broker", b"", "the value is empty"), ("broker", b"x" * 65537, "65536")],
)
def test_what_cannot_be_kept_is_refused_without_the_value(fleet: FleetFolder, name: str, value: bytes, why: str):
    with pytest.raises(EditImpossible) as caught:
        set_secret(read_base(fleet.root), "press-07", name, value)
    assert why in str(caught.value)
    assert "xxxx" not in str(caught.value)


def test_a_secret_that_no_deployment_names_is_noted(fleet: FleetFolder):
    (note,) = set_secret(read_base(fleet.root), "press-07", "other", b"value").notes
    assert note == "no deployment of press-07 names the secret other: see spec.secretRefs"


def test_deploy_makes_a_parameter_a_secret_and_takes_its_value_out(fleet: FleetFolder):
    fleet.deployment("web", parameters={"password": "hunter22"})
    fleet.commit()
    done = margo_gitops("deploy", "app", "--secret", "password=broker", cwd=fleet.root)
    assert done.code == 0, done
    spec = fleet.read().deployments["web"].value.spec
    assert (dict(spec.parameters), spec.secret_refs["password"].name) == ({}, "broker")
    assert margo_gitops("deploy", "app", "--secret", "passwort", cwd=fleet.root).code != 0
    new = margo_gitops("deploy", "app", "--name", "other", "--to", "all", "--secret", "password", cwd=fleet.root)
    assert new.code == 0, new
    assert fleet.read().deployments["other"].value.spec.secret_refs["password"].name is None


def test_a_child_s_secret_is_encrypted_for_its_gateway(fleet: FleetFolder):
    fleet.device("press-07/plc")
    put(fleet, set_secret(read_base(fleet.root), "press-07/plc", "broker", b"value"))
    (held,) = fleet.read().devices["press-07/plc"].value.spec.secrets.values()
    assert open_sealed(held.sealed, "press-07/plc", "broker", read_identities(OLD[0])) == b"value"


def test_without_the_package_the_command_says_which_extra_to_install(fleet: FleetFolder):
    prelude = "import sys; sys.modules['pyrage'] = None"
    done = margo_gitops("secret", "set", "press-07", "broker", cwd=fleet.root, prelude=prelude)
    assert done.code == 2
    assert "pyrage" in done.stderr
    assert "secrets" in done.stderr

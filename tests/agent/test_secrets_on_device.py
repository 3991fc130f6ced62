"""Where a device has the values of secrets, and what a changed or missing one does: rules SOURCE-1 to SOURCE-5."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from device_world import World, deployment_bytes, deployment_id, parsed
from test_windows import NIGHTS

from margo_gitops.agent.apply.engines import contract_of
from margo_gitops.agent.apply.secrets import SecretSources
from margo_gitops.agent.settings.secret_sources import SecretCommand, SecretSettings
from margo_gitops.appliers.applier import check_secrets
from margo_gitops.appliers.written import edited
from margo_gitops.digests import sha256
from margo_gitops.documents.secrets import DeployedSecret, WantedSecret
from margo_gitops.documents.workload_identity import own_extension, workload_contents
from margo_gitops.errors import ApplyError, InstallFailed, SecretUnavailable, WorkloadUnsupported
from margo_gitops.trust.sealing import seal

WANTED = {"PASSWORD": WantedSecret("press-07", "broker")}


def sources(state: Path, variables: dict[str, str] | None = None, **settings) -> SecretSources:
    return SecretSources(SecretSettings(**settings), variables or {}, state)


def put(path: Path, content: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def program(path: Path, code: str) -> SecretCommand:
    put(path, f"#!{sys.executable} -IS\nimport os, sys, time\n{code}\n", 0o755)
    return SecretCommand((str(path),), 5)


@pytest.fixture
def everywhere(tmp_path: Path) -> dict:
    """Return settings of sources that all have the secret."""
    put(tmp_path / "folder/broker", "of folder")
    put(tmp_path / "credentials/broker", "of systemd", 0o440)
    return {
        "environment": {"broker": "BROKER"},
        "commands": {"broker": program(tmp_path / "command", "print('of command', end='')")},
        "folder": tmp_path / "folder",
        "credentials": True,
    }


def test_the_first_source_that_has_a_secret_gives_it(tmp_path: Path, everywhere: dict):
    variables = {"BROKER": "of environment", "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    found = []
    for name in ("environment", "commands", "folder", "credentials"):
        found.append(sources(tmp_path, variables, **everywhere).open(WANTED)["PASSWORD"])
        del everywhere[name]
    assert found == [b"of environment", b"of command", b"of folder", b"of systemd"]
    with pytest.raises(SecretUnavailable, match="there is no value for the secret broker"):
        sources(tmp_path, variables, **everywhere).open(WANTED)


def test_each_place_that_was_looked_at_is_named(tmp_path: Path):
    with pytest.raises(SecretUnavailable) as caught:
        sources(tmp_path, environment={"broker": "BROKER"}, folder=tmp_path / "none", credentials=True).open(WANTED)
    assert [each.split(":")[0] for each in caught.value.why] == [
        "the variable BROKER",
        str(tmp_path / "none"),
        "systemd's credentials",
        "the state",
    ]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('CANARY'); print('CANARY', file=sys.stderr); sys.exit(3)", "ended with status 3"),
        ("print('CANARY', flush=True); time.sleep(60)", "did not end within 0.3 s"),
        ("print('CANARY' * 70000)", "more than 65536 bytes"),
    ],
)
def test_a_command_is_bounded_and_what_it_says_is_never_repeated(tmp_path: Path, code: str, why: str):
    command = program(tmp_path / "command", code)
    given = sources(tmp_path, commands={"broker": SecretCommand(command.command, 0.3 if "sleep" in code else 20)})
    with pytest.raises(SecretUnavailable) as caught:
        given.open(WANTED)
    assert why in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_a_command_gets_path_and_home_and_nothing_else(tmp_path: Path):
    command = program(tmp_path / "command", "print(*sorted(n for n in os.environ if n != 'LC_CTYPE'))")
    variables = {"PATH": os.environ["PATH"], "HOME": "/root", "MARGO_GITOPS_TOKEN": "t", "OTHER_SECRET": "s"}
    assert sources(tmp_path, variables, commands={"broker": command}).open(WANTED)["PASSWORD"] == b"HOME PATH\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int):
    put(tmp_path / "folder/broker", "value", mode)
    with pytest.raises(SecretUnavailable, match="chmod 600"):
        sources(tmp_path, folder=tmp_path / "folder").open(WANTED)


def test_a_sealed_value_is_opened_with_the_device_s_own_key(tmp_path: Path, device_key: Path):
    sealed = seal("press-07", "broker", b"sealed value", [device_key.with_suffix(".pub").read_text()])
    wanted = {"PASSWORD": WantedSecret("press-07", "broker", sealed.sealed)}
    assert sources(tmp_path, keys=(device_key,)).open(wanted) == {"PASSWORD": b"sealed value"}
    with pytest.raises(SecretUnavailable, match="another device"):
        sources(tmp_path, keys=(device_key,)).open({"PASSWORD": WantedSecret("press-08", "broker", sealed.sealed)})
    with pytest.raises(SecretUnavailable, match="names no key"):
        sources(tmp_path).open(wanted)


def test_a_changed_value_changes_the_digest_by_a_mark_that_only_this_device_can_make(tmp_path: Path):
    file = put(tmp_path / "folder/broker", "one")
    here, there = (sources(tmp_path / name, folder=tmp_path / "folder") for name in ("here", "there"))
    first = here.digest(WANTED, "sha256:base")
    assert first == here.digest(WANTED, "sha256:base")
    assert first == sources(tmp_path / "here", folder=tmp_path / "folder").digest(WANTED, "sha256:base")
    assert first != there.digest(WANTED, "sha256:base")
    file.write_text("two")
    assert first != here.digest(WANTED, "sha256:base")
    assert (tmp_path / "here/secrets.key").stat().st_mode & 0o777 == 0o600


def test_what_is_sealed_counts_in_the_digest_of_the_document_alone(tmp_path: Path, device_key: Path):
    sealed = seal("press-07", "broker", b"value", [device_key.with_suffix(".pub").read_text()])
    wanted = {"PASSWORD": WantedSecret("press-07", "broker", sealed.sealed)}
    assert sources(tmp_path, keys=(device_key,)).digest(wanted, "sha256:base") == "sha256:base"


def test_a_command_is_asked_for_changes_once_an_hour_and_may_fail_then(tmp_path: Path, monkeypatch):
    command = program(tmp_path / "command", f"open({str(tmp_path / 'asked')!r}, 'a').write('x'); print('one')")
    given = sources(tmp_path, commands={"broker": command})
    clock = [0.0]
    monkeypatch.setattr("margo_gitops.agent.apply.secrets.time", SimpleNamespace(monotonic=lambda: clock[0]))
    first = given.digest(WANTED, "sha256:base")
    assert given.digest(WANTED, "sha256:base") == first
    assert (tmp_path / "asked").read_text() == "x"
    clock[0] = 3601.0
    program(tmp_path / "command", "sys.exit(1)")
    assert given.digest(WANTED, "sha256:base") == first
    program(tmp_path / "command", "print('two')")
    assert given.digest(WANTED, "sha256:base") != first


# the agent


@pytest.fixture
def device_key(tmp_path: Path) -> Path:
    """Return the device's key as its enrolment writes it, with the public half beside it."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
    content = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    put(tmp_path / "device-key.pub", public)
    return put(tmp_path / "device-key", content)


def with_secret(sealed: str | None = None, **extension) -> bytes:
    target = {"pointer": "PASSWORD", "components": ["web"]}
    secret = {"parameter": "password", "name": "broker", "targets": [target]} | ({"sealed": sealed} if sealed else {})
    return deployment_bytes(1, values={"GREETING": "hello"}, extension={"secrets": [secret], **extension})


def delivered(world: World) -> Path:
    return world.output / deployment_id(1) / "web/secrets/PASSWORD"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    put(world.folder / "secrets/broker", "first value\n")
    world.configure(secrets={"folder": "secrets"})
    world.publish({1: with_secret()})
    return world


def test_the_files_applier_gives_a_file_for_the_agent_s_user_alone(world: World):
    assert world.agent("once").returncode == 0
    assert delivered(world).read_text() == "first value\n"
    assert delivered(world).stat().st_mode & 0o777 == 0o400
    assert delivered(world).parent.stat().st_mode & 0o777 == 0o700


def test_a_secret_that_changes_on_the_device_is_a_change_and_an_idle_cycle_none(world: World):
    assert world.agent("once").returncode == 0
    before = delivered(world).resolve()
    assert world.agent("once").returncode == 0
    assert delivered(world).resolve() == before
    (world.folder / "secrets/broker").write_text("second value\n")
    assert world.agent("once").returncode == 0
    assert delivered(world).read_text() == "second value\n"
    assert "first value" not in "".join(each.read_text() for each in world.output.rglob("PASSWORD"))


def test_a_hook_that_prints_the_secrets_of_each_revision_shows_none(world: World):
    assert world.agent("once").returncode == 0
    (world.folder / "secrets/broker").write_text("second value\n")
    script = f"cat {world.output}/.revisions/*/*/*/secrets/*; exit 3"
    files = {"folder": str(world.output), "hook": ["sh", "-c", script]}
    world.configure(secrets={"folder": "secrets"}, appliers={"files": files})
    done = world.agent("once")
    assert "<PASSWORD>" in done.stdout + done.stderr
    assert "<PASSWORD'>" in done.stdout + done.stderr
    assert " value" not in done.stdout + done.stderr


def test_a_changed_secret_waits_for_its_window(world: World):
    closed = {**NIGHTS, "windows": [], "blackouts": [{"from": "2000-01-01", "until": "2099-12-31"}]}
    assert world.agent("once").returncode == 0
    world.publish({1: with_secret(maintenance=[closed])})
    world.agent("once")
    (world.folder / "secrets/broker").write_text("second value\n")
    done = world.agent("once")
    assert delivered(world).read_text() == "first value\n", done
    assert "MG1611" in done.stderr + world.agent("status").stdout


def test_a_missing_secret_refuses_before_anything_changes_and_what_ran_runs_on(world: World):
    assert world.agent("once").returncode == 0
    (world.folder / "secrets/broker").rename(world.folder / "away")
    world.publish({1: deployment_bytes(1, values={"GREETING": "new"}, extension=extension_of(with_secret()))})
    done = world.agent("once")
    assert done.returncode == 5
    assert "there is no value for the secret broker [MG1629]" in done.stderr
    assert "hello" in (world.value(1) or "")
    status = json.loads(world.agent("status", "--output", "json").stdout)
    assert "MG1629" in json.dumps(status)
    (world.folder / "away").rename(world.folder / "secrets/broker")
    assert world.agent("once").returncode == 0
    assert "new" in (world.value(1) or "")


def extension_of(content: bytes) -> dict:
    return dict(parsed(content).spec.extensions["x-margo-gitops-extensions"])  # type: ignore[arg-type, call-overload]


def test_an_agent_without_sources_refuses_a_deployment_with_secrets(world: World):
    world.configure()
    done = world.agent("once")
    assert done.returncode == 5
    assert "the agent's configuration has no `secrets`" in done.stderr
    assert world.value(1) is None


def test_a_sealed_secret_reaches_its_device(world: World, device_key: Path):
    sealed = seal("press-07", "broker", b"sealed value", [device_key.with_suffix(".pub").read_text()])
    world.configure(secrets={"keys": [str(device_key)]})
    world.publish({1: with_secret(sealed.sealed)})
    done = world.agent("once")
    assert done.returncode == 0, done
    assert delivered(world).read_text() == "sealed value"


def test_an_older_document_has_no_secrets_and_a_foreign_device_sees_no_value():
    assert DeployedSecret("password", "broker", ()).sealed is None
    assert b"password:" not in with_secret().split(b"x-margo-gitops-extensions")[0]


def test_a_receipt_has_the_digest_of_the_document_and_no_mark(world: World):
    world.configure(secrets={"folder": "secrets"}, receipts={})
    assert world.agent("once").returncode == 0
    (document,) = [parsed(content) for content in world.versions[-1].deployments.values()]
    (content,) = workload_contents(document, own_extension(document))
    record = json.loads((delivered(world).parents[1] / "workload.json").read_text())
    assert record["digest"] != content.digest
    written = "".join(path.read_text() for path in (world.state / "receipts").iterdir() if path.name != "key")
    assert content.digest in written
    assert record["digest"] not in written


def test_an_applier_that_does_not_say_that_it_delivers_secrets_gets_none():
    workload = SimpleNamespace(secrets=WANTED, deployment=parsed(with_secret()))
    check_secrets("files", SimpleNamespace(delivers_secrets=True), workload)  # type: ignore[arg-type]
    with pytest.raises(WorkloadUnsupported, match="the applier other delivers no secrets"):
        check_secrets("other", SimpleNamespace(), workload)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError, InstallFailed])
def test_what_an_applier_raises_is_shown_without_the_secrets_that_it_got(tmp_path: Path, error: type[Exception]):
    put(tmp_path / "folder" / "broker", "hunter22")

    def fail() -> None:
        value = sources(tmp_path, folder=tmp_path / "folder").open(WANTED)["PASSWORD"]
        raise error(f"it does not like {value.decode()}")

    with pytest.raises(ApplyError, match="it does not like <PASSWORD>") as caught, contract_of("plug-in"):
        fail()
    assert "hunter22" not in str(caught.value)


def test_an_edited_file_of_a_secret_is_noticed_without_a_digest_of_it(world: World):
    assert world.agent("once").returncode == 0
    folder = delivered(world).parents[1].resolve()
    listed = (folder / ".written").read_text()
    assert "secrets/PASSWORD" in listed
    assert sha256(delivered(world).read_bytes()).removeprefix("sha256:") not in listed
    assert (folder / ".written").stat().st_mode & 0o777 == 0o600
    assert edited(folder) == ""
    delivered(world).chmod(0o600)
    delivered(world).write_text("other value\n")
    assert edited(folder) == "secrets/PASSWORD"

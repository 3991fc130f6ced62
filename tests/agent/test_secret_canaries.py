"""Secret canaries: one value in every source, everything that runs with them, and a search through all that is left.

A canary may be where docs/secrets.md says that it is: in its source, in the files that the `files` applier delivers, in
the environment of the Compose client, and in the containers. It is nowhere else, in no encoding.
"""

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from device_world import World, deployment_bytes
from support.command_line import margo_gitops
from support.fleet import FleetFolder, parameter
from test_locks import HOOK_USER, hooks
from testbed.docker_engine import DockerEngine
from testbed.test_image import TEST_IMAGE

from margo_gitops.digests import folder_digest, sha256
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.trust.sealing import seal

__all__ = ["hooks"]
SOURCES = ("environment", "command", "folder", "credential", "sealed")


def canary(source: str) -> str:
    """Return a value of two lines, with characters that every encoding writes in another way."""
    return f'cnry-{source}-{uuid.uuid4().hex}+/"\u00e9 &\nsecond-line-{uuid.uuid4().hex}'


def forms(value: str) -> Iterator[bytes]:
    """Yield what to look for: both lines of a canary, in many encodings."""
    yield sha256(value.encode()).removeprefix("sha256:").encode()
    for line in value.split("\n"):
        raw = line.encode()
        yield from (raw, line.encode("utf-16-le"), raw.hex().encode(), raw.hex().upper().encode(), raw[::-1])
        yield from (quote(line).encode(), quote(line, safe="").encode(), json.dumps(line)[1:-1].encode())
        yield from (json.dumps(json.dumps(line))[3:-3].encode(), line.split("+")[0].encode())
        for shift in range(3):  # base64 of it in the middle of something
            part = base64.b64encode(b"." * shift + raw)[4:-4]
            yield from (part, part.replace(b"+", b"-").replace(b"/", b"_"))


class Search:
    """Looks for canaries in bytes, files, archives and git repositories."""

    def __init__(self, values: dict[str, str]) -> None:
        self._forms = {source: sorted(set(forms(value))) for source, value in values.items()}
        self.looked = 0
        self.hits: list[str] = []

    def text(self, where: str, content: str | bytes) -> None:
        raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        self.looked += 1
        for source, each in self._forms.items():
            self.hits += [f"{where}: {source} as {form!r}" for form in each if form in raw]

    def folder(self, root: Path, allowed: tuple[str, ...] = ()) -> None:
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root).as_posix()
            self.text(f"name of {path}", inside)
            if path.is_file() and not path.is_symlink() and not any(each in inside for each in allowed):
                self.text(str(path), path.read_bytes())

    def git(self, repository: Path) -> None:
        command = ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch", "--unordered"]
        self.text(f"objects of {repository}", subprocess.run(command, capture_output=True, check=True).stdout)

    def archive(self, content: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    self.text(f"support bundle: {member.name}", file.read())


def device_key(folder: Path) -> str:
    """Write the device's private key, and return the public one."""
    private = Ed25519PrivateKey.generate()
    (folder / "device-key").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "device-key").chmod(0o600)
    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def script(path: Path, code: str) -> str:
    path.write_text(f"#!{sys.executable} -IS\nimport base64, json, os, pathlib, sys\n{code}\n")
    path.chmod(0o755)
    return str(path)


def private_file(path: Path, value: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)
    path.chmod(0o600)


HOOK = """
here, log = pathlib.Path(sys.argv[2]), pathlib.Path({log!r})
limits = [line for line in open(f'/proc/{{os.getppid()}}/limits') if line.startswith('Max core file size')]
lines = list(limits)
for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
        lines.append(path.read_text(errors='replace'))
    except OSError:
        pass  # it ended
log.write_text(log.read_text() + '\\n'.join(lines) if log.exists() else '\\n'.join(lines))
if {fails!r} in open(here / 'values.json').read():
    for path in sorted(here.glob('secrets/*')):
        value = path.read_text()
        raw = value.encode()
        print(value, json.dumps(value), raw.hex(), base64.b64encode(raw).decode(), file=sys.stderr)
        for line in value.splitlines():
            print(line, repr(line), base64.b64encode(line.encode()).decode(), file=sys.stderr)
    sys.exit(1)
"""


def test_no_canary_is_left_anywhere_by_the_commands_and_the_agent(tmp_path: Path, hooks: Path):
    values = {source: canary(source) for source in SOURCES}
    search = Search(values)
    device = tmp_path / "device"
    private_file(device / "secrets/folder", values["folder"])
    private_file(device / "credentials/credential", values["credential"])
    private_file(device / "for-command", values["command"])
    code = f"value = open({str(device / 'for-command')!r}).read()\nprint(value, end='')"
    command = script(device / "get-secret", f"{code}\nprint(value, file=sys.stderr)\nsys.exit(int('fails' in value))")

    fleet = FleetFolder.empty(tmp_path / "fleet")
    targets = {source: parameter("app", pointer=source.upper()) for source in SOURCES}
    part = {"name": "app", "properties": {"repository": "oci://registry.example.com/app", "revision": "1.0.0"}}
    profiles = [{"type": "compose", "id": "compose", "components": [part]}]
    greeting = {"greeting": parameter("app", pointer="GREETING", value="hello")}
    fleet.application(parameters={**targets, **greeting}, deploymentProfiles=profiles)
    fleet.device("press-07")
    path = fleet.root / "devices/press-07.yaml"
    document = json.loads(path.read_text())
    document["spec"]["secretKeys"] = [device_key(device)]
    fleet.put("devices/press-07.yaml", document)
    fleet.deployment("web", secretRefs={source: {} for source in SOURCES})
    fleet.commit()

    def run(*arguments: str, cwd: Path = fleet.root, code: int | None = 0, **variables: str) -> str:
        done = margo_gitops(*arguments, cwd=cwd, environment=variables)
        search.text(" ".join(arguments), done.stdout + done.stderr)
        assert code in (None, done.code), done
        return done.stdout + done.stderr

    # The operator's side: the value comes by standard input, and no command shows it.
    program = [sys.executable, "-c", "from margo_gitops.cli.main import main; main()"]
    setting = [*program, "secret", "set", "press-07", "sealed"]
    done = subprocess.run(setting, input=values["sealed"].encode(), cwd=fleet.root, capture_output=True, check=True)
    search.text("secret set", done.stdout + done.stderr)
    run("secret", "set", "press-07", "sealed", "--dry-run", code=None)
    fleet.commit()
    for arguments in (["secret", "list"], ["explain", "press-07", "web"], ["plan", "--details"], ["validate"]):
        run(*arguments, code=None)
    run("render", "--create", code=None)

    # The device's side: a good cycle, a hook that prints everything in many forms, a command that fails, and the rest.
    log = tmp_path / "hook.log"
    hook = script(tmp_path / "hook", HOOK.format(log=str(log), fails="broken"))
    configuration = {
        "apiVersion": "margo-gitops/v1",
        "kind": "AgentConfiguration",
        "device": "press-07",
        "stateFolder": "agent",
        "source": {"git": {"url": f"file://{tmp_path}/state.git"}},
        "trust": {"unsigned": True},
        "receipts": {},
        "appliers": {"files": {"folder": "output", "hook": [hook]}},
        "secrets": {
            "environment": {"environment": "CANARY"},
            "commands": {"command": {"command": [command]}},
            "folder": "secrets",
            "credentials": True,
            "keys": ["device-key"],
        },
        "hooks": {"folder": str(hooks), **({"user": HOOK_USER} if HOOK_USER else {})},
    }
    config = device / "agent.yaml"
    config.write_bytes(write_yaml(configuration))
    variables = {"CANARY": values["environment"], "CREDENTIALS_DIRECTORY": str(device / "credentials")}

    def agent(*arguments: str, code: int | None = 0) -> str:
        return run("agent", *arguments, "--config", str(config), cwd=device, code=code, **variables)

    agent("once")
    (delivered,) = device.glob("output/*/app")
    found = {path.name.lower(): path for path in (delivered / "secrets").iterdir()}
    assert {name: path.read_text() for name, path in found.items()} == values
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o400}

    fleet.deployment("web", secretRefs={source: {} for source in SOURCES}, parameters={"greeting": "broken"})
    fleet.commit()
    run("render")
    refused = agent("once", code=5)
    assert "the hook refused component app" in refused
    assert "<SEALED" in refused
    shown = "\n".join(f"echo {base64.b64encode(value.encode()).decode()} {value!r}" for value in values.values())
    drain = hooks / "drain"
    drain.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\n{values['sealed']}\nEND\nexit 3\n")
    drain.chmod(0o755)
    parameters = {"greeting": "drained"}
    fleet.deployment(
        "web", secretRefs={each: {} for each in SOURCES}, parameters=parameters, hooks={"before": ["drain"]}
    )
    fleet.commit()
    run("render")
    drained = agent("once", code=5)
    assert "the hook drain of the deployment web failed" in drained
    assert "<sealed>" in drained
    (device / "for-command").write_text(f"fails {values['command']}")
    assert "what it said is not shown" in agent("once", code=5)
    for arguments in (["status"], ["status", "--output", "json"], ["verify"], ["once"]):
        agent(*arguments, code=None)
    run("support-bundle", "--agent", str(config), "--output", "bundle.tar.gz", cwd=device, code=None, **variables)
    for bundle in device.glob("*.tar.gz"):
        search.archive(bundle.read_bytes())

    search.folder(device / "agent")
    search.folder(device / "output", allowed=("/secrets/",))
    search.folder(fleet.root)
    search.folder(tmp_path / "state.git")
    for repository in (fleet.root, tmp_path / "state.git"):
        search.git(repository)
    search.text("command lines", log.read_bytes())
    assert search.hits == []
    assert search.looked > 100
    lines = [line.split() for line in log.read_text().splitlines() if line.startswith("Max core file size")]
    assert lines
    assert all(line[4:6] == ["1", "1"] for line in lines)


def test_the_search_finds_each_form():
    value = canary("sealed")
    for form in set(forms(value)):
        search = Search({"sealed": value})
        search.text("here", b"before " + form + b" after")
        assert search.hits
    search = Search({"sealed": value})
    search.text("here", base64.b64encode(b'{"a":"' + value.encode() + b'"}'))
    assert search.hits


def test_a_process_with_secrets_cannot_be_dumped_or_looked_into():
    code = (
        "import ctypes, resource; from margo_gitops.agent.apply.secrets import protect_process; protect_process();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"(1, 1) 0\n"


COMPOSE = f"""
services:
  web:
    image: {TEST_IMAGE}
    command: [sh, -c, "if [ $$GREETING = broken ]; then cat /run/secrets/*; env; exit 3; fi; sleep 3600"]
    init: true
    environment:
      GREETING: "${{GREETING}}"
    secrets: [sealed, folder]
secrets:
  sealed: {{environment: SEALED}}
  folder: {{environment: FOLDER}}
"""

CLIENT = """#!/bin/sh
printf '%s\\n' "$@" >> {log}
cat /proc/$PPID/cmdline >> {log}
exec docker "$@"
"""


@pytest.mark.real
def test_no_canary_is_left_by_compose_but_in_the_container(docker_engine: DockerEngine, tmp_path: Path):
    values = {source: canary(source) for source in ("folder", "sealed")}
    search = Search(values)
    number = uuid.uuid4().int % 10**8
    world = World(tmp_path / "world", device=f"press-{number}")
    private_file(world.folder / "secrets/folder", values["folder"])
    public = device_key(world.folder)
    sealed = seal(world.device, "sealed", values["sealed"].encode(), [public]).sealed
    client, log = world.folder / "docker", tmp_path / "arguments"
    client.write_text(CLIENT.format(log=log))
    client.chmod(0o755)
    world.configure(
        appliers={"compose": {"command": [str(client), "compose"]}},
        secrets={"folder": "secrets", "keys": ["device-key"]},
    )
    content = world.folder / "application"
    content.mkdir()
    (content / "compose.yaml").write_text(COMPOSE)
    digest = folder_digest({"compose.yaml": sha256(COMPOSE.encode())})
    extension = {
        "artifacts": [{"component": "web", "url": content.as_uri(), "digest": digest}],
        "secrets": [
            {
                "parameter": name,
                "name": name,
                "targets": [{"pointer": name.upper(), "components": ["web"]}],
                **({"sealed": sealed} if name == "sealed" else {}),
            }
            for name in values
        ],
    }
    variables = dict(docker_engine.environment)

    def publish(greeting: str) -> None:
        document = deployment_bytes(number, values={"GREETING": greeting}, extension=extension, device=world.device)
        world.publish({number: document})

    def once(code: int) -> str:
        done = world.agent("once", **variables)
        search.text("agent once", done.stdout + done.stderr)
        assert done.returncode == code, done
        return done.stdout + done.stderr

    def docker(*arguments: str) -> str:
        environment = {**os.environ, **variables}
        return subprocess.run(
            ["docker", *arguments], env=environment, capture_output=True, check=True, text=True
        ).stdout

    def container() -> str:
        return docker("ps", "-q", "--filter", f"label=org.margo-gitops.device={world.device}").strip()

    try:
        publish("hello")
        once(0)
        first = container()
        for source, value in values.items():
            assert docker("exec", first, "cat", f"/run/secrets/{source}") == value
        search.text("docker inspect", docker("inspect", first))
        once(0)
        assert container() == first

        # An update that prints its secrets and fails: its last lines are shown without them, and what ran before runs.
        publish("broken")
        assert "<SEALED>" in once(5)
        assert docker("exec", container(), "cat", "/run/secrets/sealed") == values["sealed"]

        # A new value on the device is a change; it is there after the restart.
        publish("hello")
        values["folder"] = canary("folder")
        search = Search(values)
        (world.folder / "secrets/folder").write_text(values["folder"])
        once(0)
        assert docker("exec", container(), "cat", "/run/secrets/folder") == values["folder"]
        for arguments in (["status"], ["status", "--output", "json"]):
            done = world.agent(*arguments, **variables)
            search.text(" ".join(arguments), done.stdout + done.stderr)
    finally:
        world.publish({})
        world.agent("once", **variables)
    search.folder(world.state)
    search.git(world.repository.path)
    search.text("arguments", log.read_bytes())
    assert search.hits == []

"""`validate` and `plan` of a change that a stranger wrote, where secrets are (docs/review-and-ci.md, UNTRUSTED)."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from support.fleet import FleetFolder, profile

ROOT = Path(__file__).parents[2]
SECRET = "the-secret-of-the-runner"

WATCHED = r"""
import json, os, resource, sys
allowed, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
seen = set()
RUNS = ("socket.", "subprocess.", "os.exec", "os.system", "os.posix_spawn", "os.fork", "os.spawn", "urllib.", "pty.")

def watch(event, arguments):
    if event.startswith(RUNS):
        seen.add(f"{event} {arguments!r}"[:200])
    elif event in ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.symlink"):
        if isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(tuple(allowed)):
                seen.add(f"{event} {path}")

sys.addaudithook(watch)
from margo_gitops.cli.main import main
for command in commands:
    sys.argv = ["margo-gitops", *command]
    try:
        main()
    except SystemExit as ended:
        print("ended with", ended.code)
print("\nSEEN", json.dumps(sorted(seen)))
"""


def archive(secret: Path) -> bytes:
    """Return a tar.gz that leads out of itself, and unpacks to a thousand times its size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, link in (("compose.yaml", str(secret)), ("../../up", ""), (str(secret), "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            tar.addfile(member)
        bomb = tarfile.TarInfo("bomb")
        bomb.size = 4 << 20
        tar.addfile(bomb, io.BytesIO(bytes(bomb.size)))
    return out.getvalue()


def hostile_fleet(tmp_path: Path, secret: Path, port: int) -> FleetFolder:
    """Return a fleet with three commits: the template, hostile content, and links and paths that lead out of it."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    url = f"https://127.0.0.1:{port}"
    reads = f"include: [{secret}, '{url}/x.git', 'oci://127.0.0.1:{port}/x:1']\nservices:\n  web:\n    image: a\n"
    reads += f"    env_file: [{secret}]\n    extends: {{file: {secret}, service: x}}\n"
    evil = [
        {"path": "content"},
        {"path": "content.tar.gz"},
        {"url": f"{url}/x.tar.gz", "digest": f"sha256:{'0' * 64}"},
    ]
    folder = fleet.application("evil", pin=False, deploymentProfiles=[hostile_profile(evil, port)])
    fleet.put(f"{folder}/content/compose.yaml", reads)
    fleet.put(f"{folder}/content.tar.gz", archive(secret))
    aliases = "a: &a0 [x, x]\n" + "".join(f"b{at}: &a{at + 1} [*a{at}, *a{at}]\n" for at in range(40))
    bomb = fleet.application("bomb", pin=False, deploymentProfiles=[hostile_profile([{"path": "content"}], port)])
    fleet.put(f"{bomb}/content/compose.yaml", aliases)
    fleet.pin()
    fleet.deployment("evil", "evil", on=["press-01"])
    fleet.put(".gitattributes", "* filter=evil\n")
    fleet.put(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = {url}/x.git\n')
    fleet.put(".env", f"COMPOSE_ENV_FILES={secret}\n")
    fleet.change("margo-gitops.yaml", "spec:\n", f"spec:\n  policy: {{command: [sh, -c, 'cat {secret}']}}\n")
    fleet.commit()
    fleet.application("out", deploymentProfiles=[hostile_profile([{"path": "../../../../secret"}], port)], pin=False)
    for link in ("deployments/evil2.yaml", f"{folder}/content/link", "applications/linked", "policy"):
        (fleet.root / link).symlink_to(secret if link.endswith("yaml") else secret.parent)
    fleet.commit()
    return fleet


def hostile_profile(artifacts: list[dict[str, str]], port: int) -> dict[str, object]:
    plain = profile()["components"][0]
    components = [
        plain | {"name": f"part{at}", "x-margo-gitops-extensions": {"artifact": part}}
        for at, part in enumerate(artifacts)
    ]
    remote = {"name": "remote", "properties": {"repository": f"oci://127.0.0.1:{port}/x", "revision": "1.0.0"}}
    return profile() | {"components": [*components, remote]}


@pytest.mark.real
def test_untrusted_1_to_4_a_strangers_change_reads_runs_and_reaches_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "home" / "secret"
    secret.parent.mkdir()
    secret.write_text(f"TOKEN={SECRET}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet = hostile_fleet(tmp_path, secret, listener.getsockname()[1])
        listener.settimeout(0)
        allowed = [sys.prefix, sys.base_prefix, "/usr/lib", "/usr/share", "/lib", str(ROOT), str(fleet.root)]
        allowed += ["/dev/null", "/proc/self", "/etc/ssl", "/etc/localtime", str(tmp_path / "cache")]
        commands = [
            ["validate", "--rev", "HEAD~1", "--before-merge", "--since", "HEAD~2"],
            ["plan", "--rev", "HEAD~1", "--before-merge", "--base", "HEAD~2", "--output", "markdown"],
            ["validate"],
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(secret.parent),
            "MARGO_GITOPS_CACHE": str(tmp_path / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, json.dumps(allowed), json.dumps(commands)],
            cwd=fleet.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        with pytest.raises(BlockingIOError):
            listener.accept()
    output, _, seen = done.stdout.rpartition("\nSEEN ")
    assert seen, done.stderr
    assert json.loads(seen) == []
    assert SECRET not in output + done.stderr
    assert output.count("ended with") == 3
    assert all(rule in output for rule in ("R204", "R101", "MG1103", "MG1610")), output
    assert "ended with 70" not in output, done.stderr


def pipelines() -> list[tuple[str, dict[str, object]]]:
    template = ROOT / "repo-template"
    files = [template / ".gitlab-ci.yml", *sorted((template / ".github/workflows").glob("*.yml"))]
    return [(file.name, yaml.safe_load(file.read_text())) for file in files]


def test_untrusted_5_what_a_merge_request_starts_gets_no_secret() -> None:
    for name, pipeline in pipelines():
        if name == ".gitlab-ci.yml":
            jobs = {key: job for key, job in pipeline.items() if isinstance(job, dict) and "script" in job}
            for key, job in jobs.items():
                reviewed = [rule for rule in job["rules"] if "merge_request_event" in rule["if"]]
                assert bool(reviewed) == (job.get("environment") != "state"), key
                assert len(reviewed) in (0, len(job["rules"])), key
            continue
        events = pipeline[True]  # `on` is true in YAML 1.1
        text = json.dumps(pipeline["jobs"])
        assert "pull_request_target" not in events
        if "pull_request" in events:
            assert "secrets." not in text
            assert "environment" not in text
            assert pipeline["permissions"] == {"contents": "read", "pull-requests": "write"}
        else:
            assert all(job["environment"] == "state" for job in pipeline["jobs"].values())

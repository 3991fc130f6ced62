"""`support-bundle`: what is in it, and that no secret is (BUNDLE-1 to BUNDLE-3)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from support.command_line import margo_gitops

from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.support_bundle import write_support_bundle

SECRETS = ("tok-8f2a61", "pass-17c4", "query-99d1", "hook-5bb0", "inline-3e7f", "key line 2")
AGENT = """\
apiVersion: margo-gitops/v1
kind: AgentConfiguration
device: press-01
stateFolder: state
source:
  http:
    url: https://margo.plant.example/
    tokenFile: token
trust:
  unsigned: true
appliers:
  files:
    folder: work
    hook: [run, --with, hook-5bb0]
"""
WRONG = """\
    proxy: https://press:pass-17c4@margo.plant.example/api?access=query-99d1
    apiToken: inline-3e7f
    port: 8080
"""


def unpacked(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        opened = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar}
        return {name: file.read().decode() for name, file in opened.items() if file}


@pytest.mark.parametrize("wrong", ["", WRONG], ids=["a good configuration", "a wrong one"])
def test_a_bundle_holds_versions_settings_and_events_and_no_secret(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "token").write_text("tok-8f2a61\n")
    (tmp_path / "agent.yaml").write_text(AGENT.replace("    url:", f"{wrong}    url:"))
    (tmp_path / "state").mkdir()
    with Journal.open(tmp_path / "state" / JOURNAL_FILE, 1.0) as journal:
        journal.note(Event(Reason.WORKLOAD_FAILED, "it said tok-8f2a61 and hook-5bb0"), 2.0)
    made = margo_gitops("support-bundle", "--config", "agent.yaml", cwd=tmp_path)
    assert made.code == 0, made
    place = tmp_path / "support-bundle.tar.gz"
    assert place.stat().st_mode & 0o777 == 0o600
    files = unpacked(place)
    assert [secret for secret in SECRETS if secret in "".join(files.values())] == []
    settings = yaml.safe_load(files["configuration.yaml"])
    assert settings["device"] == "press-01"
    assert settings["source"]["http"]["url"] == "https://margo.plant.example/"
    assert json.loads(files["versions.json"])["packages"]["click"]
    assert ("problem.json" in files) is bool(wrong)
    assert ("it said (not shown)" in files.get("events.json", "")) is not bool(wrong)


def test_a_bundle_of_a_server_is_bounded(tmp_path: Path) -> None:
    place = tmp_path / "server.yaml"
    place.write_text("kind: ServerConfiguration\nidentity: {bearer: {tokens: t}}\ntls: {key: k.pem}\n")
    (tmp_path / "k.pem").write_text("-----BEGIN\nkey line 2\n")
    content = write_support_bundle(place, place.read_bytes(), {"much.json": "x" * 3_000_000, "log.json": "key line 2"})
    (tmp_path / "a.tar.gz").write_bytes(content)
    files = unpacked(tmp_path / "a.tar.gz")
    assert max(map(len, files.values())) <= 1024 * 1024
    assert "key line 2" not in "".join(files.values())
    refused = margo_gitops("support-bundle", "--config", "nosuch.yaml", cwd=tmp_path)
    assert (refused.code, "Traceback" in refused.stderr) == (2, False), refused


def test_a_secret_is_hidden_however_json_spells_it(tmp_path: Path) -> None:
    place = tmp_path / "server.yaml"  # is not read: the settings are those that were read once
    secret = 'gehe"im-ü-\\\u200b'
    settings = json.dumps({"kind": "ServerConfiguration", "token": secret}).encode()
    content = write_support_bundle(place, settings, {"log.json": f"it said {secret}", "sent.json": json.dumps(secret)})
    (tmp_path / "a.tar.gz").write_bytes(content)
    files = unpacked(tmp_path / "a.tar.gz")
    assert json.loads(files["log.json"]) == "it said (not shown)"
    assert "gehe" not in "".join(files.values())

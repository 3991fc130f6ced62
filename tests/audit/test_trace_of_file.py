"""A deployed file, each value back to the line of the fleet repo, who wrote and approved it, and since when it runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from audited_world import World
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.real import require_program
from support.reporting import Reporter

from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.rendering.resolution import deployment_id


def trace(world: World, device: str, *arguments: str | Path) -> Outcome:
    return margo_gitops("audit", "trace", device, *arguments, "--fleet", world.fleet.root, cwd=world.folder)


def traced(world: World, device: str, *arguments: str | Path) -> dict[str, Any]:
    outcome = trace(world, device, *arguments, "--output", "json")
    assert outcome.code == 0, outcome
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def file_of(world: World, device: str, deployment: str, *arguments: str | Path) -> dict[str, Any]:
    """Trace the file of a deployment, named by its id."""
    fleet = world.fleet.read().fleet.value.metadata.name
    return traced(world, device, "--file", deployment_id(fleet, device, deployment), *arguments)


def by_path(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["path"]: each for each in found["file"]["values"]}


def test_every_value_of_a_document_leads_to_a_line_that_says_it(world: World):
    found = file_of(world, "a", "web")
    assert found["notes"] == []
    content = world.state.run("show", f"devices/a:{found['file']['path']}") + "\n"
    assert found["file"]["digest"] == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    assert "\n".join([*found["file"]["lines"], ""]) == content
    values = by_path(found)
    assert len(values) == len([node for node in read_yaml(content.encode(), "f").root.walk() if not _holds(node.value)])
    for path, each in values.items():
        assert each["file"], path
        line = (world.fleet.root / each["file"]).read_text().splitlines()[each["fileLine"] - 1]
        blamed = world.fleet.git.run("blame", "--porcelain", "-L", f"{each['fileLine']},+1", each["file"])
        assert each["lineCommit"] == blamed.split(" ")[0], path
        assert line.strip(), path
    parameter = values["spec.parameters.p.value"]
    assert (parameter["value"], parameter["layer"], parameter["file"]) == ("mine", "device a", "devices/a.yaml")
    assert values["metadata.deviceId"]["file"] == "devices/a.yaml"
    assert values["spec.applicationId"]["file"] == "deployments/web.yaml"
    assert values["spec.deploymentProfile.type"]["file"] == "applications/app/1.0.0/margo.yaml"


def _holds(value: object) -> bool:
    return isinstance(value, dict | list) and bool(value)


def test_each_value_says_since_when_it_runs(world: World):
    Reporter(world.folder / "state.git").report("a", adopted=3)
    found = file_of(world, "a", "web")
    values = by_path(found)
    told = {path: values[path]["since"]["version"] for path in ("id", "spec.parameters.p.value")}
    # p became "one" with manifest 2 and "mine" with 3; manifest 4 brought another deployment.
    assert told == {"id": 1, "spec.parameters.p.value": 3}
    assert found["version"] == 4
    since = found["file"]["since"]
    assert (since["version"], since["adoptedAt"]) == (3, "2027-01-15T08:01:00+00:00")
    commits = world.state.run("log", "--format=%H %s", "devices/a").splitlines()
    assert f"{since['stateCommit']} Manifest 3 for a" in commits


def test_a_value_that_comes_back_runs_since_it_came_back(world: World):
    for text in ("other", "mine"):
        world.fleet.device("a", site="south", p=text)
        world.commit(f"Set {text}")
    values = by_path(file_of(world, "a", "web"))
    assert values["spec.parameters.p.value"]["since"]["version"] == 6
    assert values["spec.applicationId"]["since"]["version"] == 1


def test_a_line_is_traced_to_the_merge_that_brought_it_and_to_those_who_answer_for_it(world: World):
    git = world.fleet.git
    git.run("switch", "--quiet", "--create", "change")
    world.fleet.device("a", site="south", p="reviewed")
    world.fleet.commit("Set p to reviewed\n\nSigned-off-by: Ada Author <ada@example.com>")
    written = git.run("rev-parse", "HEAD")
    git.run("switch", "--quiet", "main")
    world.fleet.site("south", p="elsewhere")
    world.fleet.commit("Change something else meanwhile")
    merge = "Merge the change\n\nReviewed-by: Bob <bob@example.com>\nCo-authored-by: Eve <eve@example.com>"
    git.run("merge", "--quiet", "--no-ff", "-m", merge, "change")
    merged = git.run("rev-parse", "HEAD")
    world.fleet.site("south", p="later")
    world.fleet.commit(f"Answer for it\n\nApproves: {merged}\nReviewed-by: Cem <cem@example.com>")
    world.render()

    for arguments in (("--parameter", "p", "--deployment", "web"), ("--file", "FILE")):
        found = file_of(world, "a", "web") if arguments[0] == "--file" else traced(world, "a", *arguments)
        (commit,) = [each for each in found["commits"] if each["commit"] == written]
        assert (commit["subject"], commit["author"]) == ("Set p to reviewed", "Ada Author <ada@example.com>")
        assert (commit["mergedBy"], commit["mergedSubject"]) == (merged, "Merge the change")
        assert commit["signature"] == commit["mergedSignature"] == "none"
        assert commit["approvals"] == [
            "Signed-off-by: Ada Author <ada@example.com>",
            "Reviewed-by: Bob <bob@example.com>",
            f"Approves: {merged}",
            "Reviewed-by: Cem <cem@example.com>",
        ]
        assert all(each["mergedBy"] is None for each in found["commits"] if each["commit"] != written)
    lines = trace(world, "a", "--parameter", "p", "--deployment", "web").stdout.splitlines()
    start = lines.index('    p = "reviewed"')
    assert lines[start + 1].startswith("      since manifest 5  ")
    assert "        approval   Reviewed-by: Bob <bob@example.com>" in lines
    assert f"        merged by  {merged[:12]}  Merge the change" in lines


def test_who_signed_a_line_is_told_with_and_without_a_list(signed: World):
    require_program("ssh-keygen", "openssh-client")
    key = signed.folder / "key-1"
    signed.signers(1)
    git = signed.fleet.git
    git.run("config", "gpg.format", "ssh")
    git.run("config", "user.signingKey", str(key))
    signed.fleet.device("a", site="south", p="signed")
    git.run("add", "--all")
    git.run("commit", "--quiet", "-S", "-m", "Sign p")
    signed.render()
    (commit, *_) = traced(signed, "a", "--parameter", "p", "--deployment", "web")["commits"]
    assert commit["signature"].startswith("SHA256:")
    found = file_of(signed, "a", "web", "--allowed-signers", f"{key}.allowed")
    assert found["signature"] == "renderer"
    assert {each["subject"]: each["signature"] for each in found["commits"]}["Sign p"] == "renderer"
    other = signed.folder / "other"
    other.mkdir()
    World(other).signers(2)
    found = file_of(signed, "a", "web", "--allowed-signers", other / "key-2.allowed")
    assert found["signature"].startswith("does not count: ")
    signatures = {each["subject"]: each["signature"] for each in found["commits"]}
    assert signatures["Sign p"].endswith(", which the list does not allow")


def test_the_manifest_leads_to_the_deployments_that_it_lists(world: World):
    found = traced(world, "a", "--file", "manifest.json")
    values = by_path(found)
    documents = {each["id"]: each["name"] for each in traced(world, "a")["deployments"]}
    for index, identity in enumerate(sorted(documents)):
        each = values[f"deployments[{index}].deploymentId"]
        assert (each["value"], each["file"]) == (identity, f"deployments/{documents[identity]}.yaml")
    assert values["manifestVersion"]["layer"] == "all deployments"
    assert values["manifestVersion"]["since"]["version"] == found["version"] == 4


@pytest.mark.parametrize("device", ["gw", "gw/child"])
def test_a_gateways_files_are_those_of_its_children_too(world: World, device: str):
    found = traced(world, device, "--file", next(iter(files_of(world, "gw", "gw/child"))))
    assert found["file"]["device"] == "gw/child"
    assert by_path(found)["metadata.deviceId"]["file"] == "devices/gw/child.yaml"


def files_of(world: World, client: str, device: str) -> dict[str, str]:
    paths = world.state.run("ls-tree", "-r", "--name-only", f"devices/{client}").splitlines()
    return {
        path: text
        for path in paths
        if f"deviceId: {device}\n" in (text := world.state.run("show", f"devices/{client}:{path}"))
    }


def test_the_text_shows_each_line_behind_its_origin(world: World):
    path = next(iter(files_of(world, "b", "b")))
    outcome = trace(world, "b", "--file", Path(path).name, "--at", "2100-01-01")
    lines = outcome.stdout.splitlines()
    assert f"  {path} of " in outcome.stdout
    (shown,) = [line for line in lines if line.endswith("  deviceId: b")]
    place, commit, version, _ = shown.split(maxsplit=3)
    number = next(
        at
        for at, line in enumerate((world.fleet.root / "devices/b.yaml").read_text().splitlines(), 1)
        if '"b"' in line or " b" in line
    )
    assert place == f"devices/b.yaml:{number}"
    assert any(line.startswith(f"  {commit}  Ada Author <ada@example.com>") for line in lines)
    assert any(line.strip().startswith(f"manifest {version}  ") for line in lines)


def test_a_forged_value_is_traced_to_no_line(world: World):
    (path,) = [each for each, text in files_of(world, "gw", "gw").items()]
    content = world.state.run("show", f"devices/gw:{path}") + "\n"
    forger = world.forger
    commit = forger.chain("refs/heads/devices/gw")[-1]
    tip = forger.chain("fleet")[-1]
    assert "value: one" in content
    forged = content.replace("value: one", "value: two").encode()
    forger.put(commit, {path: forged})
    forger.put(tip, {f"devices/north/gw/{path}": forged})
    forger.write()
    found = traced(world, "gw", "--file", path)
    assert by_path(found)["spec.parameters.p.value"]["file"] is None
    assert found["notes"] == ["spec.parameters.p.value: the fleet commit says otherwise; see margo-gitops audit verify"]


@pytest.mark.parametrize("asked", ["nothing", "", "../manifest.json", "deployments", "\x1b[31m"])
def test_a_file_that_is_not_there_is_an_error_that_names_those_that_are(world: World, asked: str):
    outcome = trace(world, "a", "--file", asked)
    assert (outcome.code, "[MG1821]" in outcome.stderr) == (2, True), outcome
    assert "manifest.json" in outcome.stderr
    assert "\x1b" not in outcome.stderr


def test_a_file_goes_without_the_other_filters(world: World):
    outcome = trace(world, "a", "--file", "manifest.json", "--parameter", "p")
    assert (outcome.code, "--file goes without" in outcome.stderr) == (2, True)


def test_a_fleet_commit_that_is_not_in_the_clone_leaves_values_without_lines(world: World):
    empty = FleetFolder(world.folder / "other")
    empty.put("margo-gitops.yaml", (world.fleet.root / "margo-gitops.yaml").read_text())
    empty.git.init()
    empty.commit("Another history")
    arguments = ("--file", "manifest.json", "--output", "json", "--state-repo", world.folder / "state.git")
    outcome = margo_gitops("audit", "trace", "a", *arguments, "--fleet", empty.root, cwd=world.folder)
    assert outcome.code == 0, outcome
    found = json.loads(outcome.stdout)
    assert "cannot be read, so no line is known" in found["notes"][0]
    assert {each["lineCommit"] for each in found["file"]["values"]} == {None}

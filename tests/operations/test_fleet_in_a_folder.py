"""A fleet repo that is a folder of a larger repository: every command works, and other commits are no changes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder, write_signing_key
from support.git_cli import Git

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.editing.edit import read_base
from margo_gitops.editing.revert import revert_commit
from margo_gitops.errors import EditImpossible

FOLDER = "plants/east"


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A repository with other things in it, some of them named like those of a fleet."""
    git = Git(tmp_path / "mono").init()
    git.commit({"devices/x.yaml": "[", "README.md": "Ours", ".gitignore": ".cache\n"}, "Begin")
    return git


@pytest.fixture
def fleet(git: Git) -> FleetFolder:
    """The fleet that `init` makes in it."""
    made = margo_gitops("init", FOLDER, "--yes", cwd=git.path)
    assert made.code == 0, made
    assert not (git.path / FOLDER / ".git").exists()
    assert not (git.path / FOLDER / ".github").exists()
    git.run("commit", "--quiet", "-m", "Scaffold the fleet", "--", FOLDER)
    assert git.run("status", "--porcelain") == ""
    return FleetFolder(git.path / FOLDER)


def run(fleet: FleetFolder, *arguments: str, code: int = 0) -> Outcome:
    done = margo_gitops(*arguments, "--fleet", FOLDER, cwd=fleet.root.parent.parent)
    assert done.code == code, done
    return done


def rendered(fleet: FleetFolder, *arguments: str) -> dict[str, object]:
    return json.loads(run(fleet, "render", "--output", "json", *arguments).stdout)


def test_edits_and_commits_stay_in_the_folder(fleet: FleetFolder, git: Git, tmp_path: Path):
    package = tmp_path / "package"
    (fleet.root / "applications/com-example-greeting/1.0.0").rename(package)
    git.run("checkout", "--", FOLDER)
    description = (package / "margo.yaml").read_text()
    (package / "margo.yaml").write_text(description.replace("version: 1.0.0", "version: 1.1.0"))
    run(fleet, "app", "add", str(package))
    git.run("stash", "--quiet", "--include-untracked")
    run(fleet, "app", "add", str(package), "--commit", "--branch", "change")
    run(fleet, "deploy", "com-example-greeting", "--set", "greeting=Salve", "--commit", "--branch", "change")
    capabilities = tmp_path / "capabilities.json"
    shown = json.loads(run(fleet, "device", "show", "press-01", "--output", "json").stdout)
    shown["capabilities"]["properties"]["id"] = "press-09"
    capabilities.write_text(json.dumps(shown["capabilities"]))
    added = ("device", "add", "press-09", "--site", "north", "--capabilities", str(capabilities))
    run(fleet, *added, "--commit", "--branch", "change")
    changed = git.run("diff", "--name-only", "main", "change").splitlines()
    assert f"{FOLDER}/devices/press-09.yaml" in changed
    assert all(path.startswith(f"{FOLDER}/") for path in changed)
    assert run(fleet, "validate", "--rev", "change").code == 0
    planned = json.loads(run(fleet, "plan", "--rev", "change", "--base", "main", "--output", "json", code=1).stdout)
    assert {each["device"] for each in planned["devices"]} >= {"press-09"}


def test_commits_outside_are_no_changes_of_the_fleet(fleet: FleetFolder, git: Git):
    first = git.run("rev-parse", "HEAD")
    assert rendered(fleet)["fleetCommit"] == first
    assert (git.path.parent / "east-state.git").is_dir()  # beside the whole repository
    git.commit({"README.md": "Theirs"}, "Write")
    again = rendered(fleet)
    assert (again["fleetCommit"], again["stateCommit"], again["uncommitted"]) == (first, None, [])
    (git.path / "README.md").write_text("not committed")
    (fleet.root / "note").write_text("not committed")
    assert rendered(fleet)["uncommitted"] == ["note"]
    fleet.change("sites/north.yaml", "Grüezi", "Salve")
    assert json.loads(run(fleet, "plan", "--output", "json", code=1).stdout)["devices"]
    change = git.commit({}, "Greet")
    git.commit({"README.md": "Later"}, "Write more")
    assert rendered(fleet)["fleetCommit"] == change
    run(fleet, "render", "--check")
    run(fleet, "audit", "verify")
    traced = json.loads(run(fleet, "audit", "trace", "press-01", "--output", "json").stdout)
    assert traced["fleetCommit"] == change
    assert any(each["commit"] == change for each in traced["commits"])


def test_evidence_of_such_a_fleet_holds(fleet: FleetFolder, tmp_path: Path):
    key = write_signing_key(tmp_path / "key")
    rendered(fleet, "--signing-key", str(key))
    run(fleet, "audit", "export", "--all", "--signing-key", str(key), "--out", str(tmp_path / "evidence"))
    signers = f"{key}.allowed"
    done = margo_gitops("audit", "check-evidence", tmp_path / "evidence", "--allowed-signers", signers, cwd=tmp_path)
    assert done.code == 0, done


def test_findings_are_the_folders_and_pipelines_find_their_files(fleet: FleetFolder, git: Git):
    assert run(fleet, "validate", "--since", "HEAD~1").code == 0
    base = git.run("rev-parse", "HEAD")
    fleet.change("devices/press-01.yaml", "kind: Device", "kind: Devise")
    git.commit({"devices/x.yaml": "{"}, "Break both")
    for since in ((), ("--since", base), ("--rev", "HEAD", "--since", base)):
        found = run(fleet, "validate", "--output", "github", *since, code=1).stdout
        assert f"file={FOLDER}/devices/press-01.yaml" in found
        assert "x.yaml" not in found
    assert "\ndevices/press-01.yaml:" in run(fleet, "validate", code=1).stdout


def test_a_revert_undoes_the_folders_part(fleet: FleetFolder, git: Git):
    fleet.change("sites/north.yaml", "Grüezi", "Salve")
    both = git.commit({"README.md": "Both"}, "Change both")
    git.commit({"README.md": "Later"}, "Change it again, which is no conflict for the fleet")
    edit = revert_commit(read_base(fleet.root), both)
    assert [change.path for change in edit.changes] == ["sites/north.yaml"]
    assert not revert_commit(read_base(fleet.root), "HEAD").changes
    with pytest.raises(EditImpossible, match="first commit"):
        revert_commit(read_base(fleet.root), "HEAD~2")
    run(fleet, "revert", both[:12], "--commit", "--branch", "back")
    assert git.run("diff", "--name-only", "main", "back") == f"{FOLDER}/sites/north.yaml"


def test_only_commits_that_change_the_fleet_need_a_signature(fleet: FleetFolder, git: Git, tmp_path: Path):
    key = write_signing_key(tmp_path / "key")
    public = Path(f"{key}.allowed").read_text().split(" ", 1)[1]
    fleet.put("signers", f'carl@example.com namespaces="git" {public}')
    policy = "spec:\n  policy:\n    signatures:\n      allowedSigners: signers\n      commits: all"
    fleet.change("margo-gitops.yaml", "spec:", policy)
    base = git.commit({}, "Write a policy")
    git.run("switch", "--quiet", "--create", "side")
    git.commit({"README.md": "Unsigned"}, "Write")
    fleet.change("sites/north.yaml", "Grüezi", "Salve")
    signing = {"GIT_CONFIG_COUNT": "0", "GIT_CONFIG_PARAMETERS": f"'gpg.format'='ssh' 'user.signingkey'='{key}'"}
    signed = Git(git.path, {**signing})
    signed.commit({}, "Greet", "-S")
    signed.run("switch", "--quiet", "main")
    git.commit({"README.md": "Other"}, "Write on main")
    git.run("checkout", "--quiet", "side", "--", "README.md")
    git.commit({}, "Write as they do")
    signed.run("merge", "--quiet", "--no-ff", "-S", "-m", "Merge", "side")
    git.commit({"README.md": "Last"}, "Write last")
    assert run(fleet, "validate", "--rev", "HEAD", "--since", base).code == 0
    fleet.change("sites/north.yaml", "Salve", "Hoi")
    unsigned = git.commit({}, "Greet again")
    found = run(fleet, "validate", "--rev", "HEAD", "--since", base, code=1).stdout
    assert unsigned[:12] in found


@pytest.mark.parametrize("options", [("--filter=blob:none", "--sparse"), ("--filter=tree:0", "--sparse")], ids=str)
def test_a_clone_of_the_folder_alone_is_enough(fleet: FleetFolder, git: Git, tmp_path: Path, options: tuple[str, ...]):
    git.run("config", "uploadpack.allowFilter", "true")
    git.run("config", "uploadpack.allowAnySHA1InWant", "true")
    Git(tmp_path).run("clone", "--quiet", *options, f"file://{git.path}", "clone")
    clone = Git(tmp_path / "clone")
    clone.run("sparse-checkout", "set", FOLDER)
    for arguments in (("validate", "--since", "HEAD~1"), ("plan", "--rev", "HEAD", "--base", "HEAD")):
        done = margo_gitops(*arguments, "--fleet", FOLDER, cwd=clone.path)
        assert done.code == 0, done


def test_the_nearest_fleet_is_meant(fleet: FleetFolder, git: Git, tmp_path: Path):
    assert FleetRepo.find(fleet.root / "devices").folder == FOLDER
    assert FleetRepo.find(git.path).folder == ""
    (tmp_path / "link").symlink_to(fleet.root)
    assert FleetRepo.find(tmp_path / "link").folder == FOLDER
    outside = margo_gitops("validate", cwd=git.path)
    assert (outside.code, "--fleet" in outside.stderr) == (2, True), outside

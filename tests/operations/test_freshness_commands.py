"""`render --freshness-key` and `margo-gitops freshness`, on a path and on a remote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder, write_signing_key
from support.git_cli import Git, GitFailedError

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.trust.allowed_signers import parse_allowed_signers
from margo_gitops.trust.freshness import FreshnessPolicy, HeldVersion, assess, read_freshness


@dataclass
class Plant:
    """A fleet of two devices, its state repo, and a key for statements."""

    fleet: FleetFolder
    state: Git
    key: Path
    url: str

    def run(self, *arguments: str | Path, **environment: str) -> Outcome:
        return margo_gitops(*arguments, cwd=self.fleet.root, environment=environment)

    def render(self, *options: str | Path) -> Outcome:
        return self.run("render", "--state-repo", self.url, *options)

    def freshness(self, command: str, *options: str | Path) -> Outcome:
        return self.run("freshness", command, "--state-repo", self.url, *options)

    def renew(self, *options: str) -> Outcome:
        return self.freshness("renew", "--signing-key", self.key, *options)

    def refs(self) -> dict[str, str]:
        lines = self.state.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def shards(self) -> list[str]:
        return sorted(name.removeprefix(FRESHNESS_REFS) for name in self.refs() if name.startswith(FRESHNESS_REFS))

    def verdict(self, device: str, after: timedelta = timedelta()) -> str:
        content = self.freshness("export", device).stdout.encode()
        signers = parse_allowed_signers(self.key.with_name("key.allowed").read_bytes(), "allowed_signers")
        manifest = self.state.run_bytes("cat-file", "blob", f"devices/{device}:manifest.json")
        held = HeldVersion(json.loads(manifest)["manifestVersion"], sha256(manifest), signed=False)
        proof = read_freshness(content, FreshnessPolicy(device, signers, "plant"))
        return assess(proof, held, datetime.now(UTC) + after).verdict


@pytest.fixture
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Plant:
    fleet = FleetFolder.empty(tmp_path / "fleet", namespace="n")
    fleet.put(".gitignore", ".cache\n")
    for name in ("a", "b"):
        fleet.device(name)
    fleet.application()
    fleet.deployment("web")
    fleet.commit("First")
    state = Git(tmp_path / "state.git")
    remote = getattr(request, "param", "path") == "remote"
    if remote:
        state.init(bare=True)
    url = f"file://{state.path}" if remote else str(state.path)
    return Plant(fleet, state, write_signing_key(tmp_path / "key"), url)


ON_BOTH = pytest.mark.parametrize("plant", ["path", "remote"], indirect=True)


@ON_BOTH
def test_a_render_with_a_key_says_that_its_state_is_new(plant: Plant) -> None:
    done = plant.render("--freshness-key", plant.key)
    assert done.code == 0, done
    assert "fresh until " in done.stdout
    assert plant.shards() == ["all"]
    assert plant.verdict("a") == plant.verdict("b") == "fresh"
    assert plant.verdict("a", timedelta(days=7)) == "expired"


def test_a_render_without_a_key_makes_no_statement(plant: Plant) -> None:
    assert plant.render().code == 0
    assert plant.shards() == []
    found = plant.freshness("export", "a")
    assert (found.code, found.stdout) == (1, "")
    assert "MG1525" in found.stderr
    assert plant.freshness("show").code == 1


@ON_BOTH
def test_renewals_move_no_branch_of_a_device_and_are_replaced(plant: Plant) -> None:
    plant.render()
    before = plant.refs()
    for _ in range(2):
        done = plant.renew("--valid-for", "36h")
        assert done.code == 0, done
        assert done.stdout.startswith("2 devices in 1 shard: fresh until ")
    assert plant.state.run("rev-list", "--count", f"{FRESHNESS_REFS}all") == "1"
    assert {name: value for name, value in plant.refs().items() if not name.startswith(FRESHNESS_REFS)} == before
    assert plant.verdict("a", timedelta(hours=31)) == "fresh"
    assert plant.verdict("a", timedelta(hours=36)) == "expired"


def test_the_statement_follows_the_state(plant: Plant) -> None:
    plant.render("--freshness-key", plant.key)
    plant.fleet.change("margo-gitops.yaml", '"namespace": "n"', '"namespace": "m"')
    plant.fleet.commit("Change it")
    plant.render()
    assert plant.verdict("a") == "not-yet-known"  # it lists the version before
    shown = plant.freshness("show", "--output", "json")
    assert shown.code == 1
    assert json.loads(shown.stdout)["standing"] == "stale"
    assert plant.render("--freshness-key", plant.key).stdout.endswith("up to date\n" + last_line(plant))
    assert plant.verdict("a") == "fresh"
    assert plant.freshness("show").code == 0


def last_line(plant: Plant) -> str:
    shown = json.loads(plant.freshness("show", "--output", "json").stdout)
    return f"fresh until {shown['statement']['expires']}\n"


def test_an_equal_render_in_a_row_writes_nothing(plant: Plant) -> None:
    plant.render("--freshness-key", plant.key)
    before = plant.refs()
    done = plant.render("--freshness-key", plant.key)
    assert "fresh until" not in done.stdout
    assert plant.refs() == before


@ON_BOTH
def test_a_fleet_that_grows_leaves_no_old_shard_behind(plant: Plant) -> None:
    plant.render("--freshness-key", plant.key)
    for number in range(70):
        plant.fleet.device(f"d{number}")
    plant.fleet.commit("Grow")
    done = plant.render("--freshness-key", plant.key)
    assert done.code == 0, done
    assert plant.shards() == [f"1-{digit:x}" for digit in range(16)]
    assert plant.verdict("d69") == plant.verdict("a") == "fresh"


def test_the_fleet_says_how_long_and_the_signing_key_signs(plant: Plant) -> None:
    plant.fleet.change("margo-gitops.yaml", '"namespace": "n"', '"namespace": "n", "freshness": {"validFor": "2h"}')
    plant.fleet.commit("Want statements")
    unsigned = plant.render()
    assert "note: no key signs statements of freshness" in unsigned.stderr
    signed = plant.render("--signing-key", plant.key)
    assert signed.code == 0, signed
    assert plant.verdict("a", timedelta(hours=1)) == "fresh"
    assert plant.verdict("a", timedelta(hours=2)) == "expired"


def test_the_key_may_be_named_by_the_environment(plant: Plant) -> None:
    plant.render()
    done = plant.run("freshness", "renew", "--state-repo", plant.url, MARGO_GITOPS_FRESHNESS_KEY=str(plant.key))
    assert done.code == 0, done


def test_the_fleet_repo_says_where_and_how_long(plant: Plant) -> None:
    plant.fleet.fleet(stateRepo=plant.url, namespace="n", freshness={"validFor": "3d"})
    plant.fleet.commit("Say where")
    plant.run("render")
    done = plant.run("freshness", "renew", "--signing-key", plant.key, "--output", "json")
    assert done.code == 0, done
    statement = json.loads(done.stdout)["statement"]
    assert parse_moment(statement["expires"]) - parse_moment(statement["issued"]) == timedelta(days=3)


def test_an_exported_file_holds_the_bytes_that_git_has(plant: Plant, tmp_path: Path) -> None:
    plant.render("--freshness-key", plant.key)
    assert plant.freshness("export", "b", "-o", tmp_path / "proof").code == 0
    served = plant.state.run_bytes("cat-file", "blob", f"{FRESHNESS_REFS}all:freshness.json")
    assert (tmp_path / "proof").read_bytes() == served


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("renew",), "pass --signing-key FILE"),
        (("renew", "--signing-key", "nowhere"), "MG1305"),
        (("renew", "--signing-key", "nowhere", "--valid-for", "7"), "is not a time such as"),
        (("export", "no/such//device"), "is not a device id"),
    ],
    ids=["no key", "key not there", "no time", "no device"],
)
def test_mistakes_are_named(plant: Plant, arguments: tuple[str, ...], words: str) -> None:
    done = plant.freshness(*arguments)
    assert done.code == 2, done
    assert words in done.stderr


def test_what_no_render_wrote_is_not_said_to_be_fresh(plant: Plant) -> None:
    plant.render()
    plant.state.run("update-ref", "refs/heads/devices/a", "refs/heads/devices/b")
    done = plant.renew()
    assert done.code == 4, done
    assert plant.shards() == []


class TestOnAGitServer:
    """Statements are replaced, which a strict server refuses; the hook of docs/freshness.md lets just that through."""

    @pytest.fixture
    def hook(self) -> str:
        page = (Path(__file__).parents[2] / "docs" / "freshness.md").read_text()
        found = re.search(r"hooks/update <<'HOOK'\n(.*?)HOOK\n", page, re.DOTALL)
        assert found
        return found[1]

    @pytest.mark.parametrize("plant", ["remote"], indirect=True)
    def test_a_server_that_refuses_is_named_and_not_taken_for_a_race(self, plant: Plant) -> None:
        plant.render("--freshness-key", plant.key)
        plant.state.run("config", "receive.denyNonFastForwards", "true")
        before = plant.refs()
        done = plant.renew("--valid-for", "36h")
        assert done.code == 2, done
        assert "does not let you replace refs/heads/freshness/*" in done.stderr
        assert plant.refs() == before

    @pytest.mark.parametrize("plant", ["remote"], indirect=True)
    def test_the_hook_lets_statements_be_replaced_and_nothing_else(self, plant: Plant, hook: str) -> None:
        plant.render("--freshness-key", plant.key)
        place = plant.state.path / "hooks" / "update"
        place.parent.mkdir(exist_ok=True)
        place.write_text(hook)
        place.chmod(0o755)
        assert plant.renew("--valid-for", "36h").code == 0
        for number in range(70):
            plant.fleet.device(f"d{number}")
        plant.fleet.commit("Grow")
        assert plant.render("--freshness-key", plant.key).code == 0
        assert len(plant.shards()) == 16
        clone = Git(plant.state.path.parent / "clone")
        Git(plant.state.path.parent).run("clone", "--quiet", plant.url, "clone")
        for refspec in ("+origin/devices/a:refs/heads/fleet", ":refs/heads/devices/a", ":refs/heads/fleet"):
            with pytest.raises(GitFailedError, match="hook declined"):
                clone.run("push", "origin", refspec.replace("+origin", "+refs/remotes/origin"))

import json
import os
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from workload_making import artifact_of, compose_archive, leftovers, tree, workload

from margo_gitops.appliers.applier import ApplierContext, HeldArtifact, WorkloadKey
from margo_gitops.appliers.contract_kit import ApplierContract, make_workload
from margo_gitops.appliers.files import create
from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.large_artifacts import LargeArtifact
from margo_gitops.documents.records import read
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import ArtifactRefused, InstallFailed, RemoveFailed, StopFailed

ID = str(uuid.uuid4())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def make(tmp_path, out):
    def applier(device="press-07", **settings):
        state = tmp_path / f"state-{device}"
        state.mkdir(exist_ok=True)
        return create(ApplierContext(device, state, {"folder": str(out), **settings}))

    return applier


@pytest.fixture
def hook(tmp_path):
    """A hook that writes down its calls, and fails where the file `refuse` names the value it finds."""
    path = tmp_path / "hook"
    path.write_text(
        f"""#!/bin/sh
        echo "$@" >> {tmp_path}/calls
        refused=$(cat {tmp_path}/refuse 2>/dev/null || echo nothing-at-all)
        if [ -e "$3/values.json" ] && grep -q "$refused" "$3/values.json"; then
            echo disk not found >&2
            exit 7
        fi
        """
    )
    path.chmod(0o755)
    return path


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def item(tmp_path, values=None, source="services: {}\n", **more):
    artifact = artifact_of(compose_archive(source), tmp_path)
    return workload(artifact, values, deployment_id=more.pop("deployment_id", ID), **more)


class TestContract(ApplierContract):
    """The promises, with a hook that refuses what is broken."""

    @property
    def out(self):
        return self.folder / "out"

    def create(self, device):
        state = self.folder / f"state-{device}"
        state.mkdir(exist_ok=True)
        script = f'echo "$0" >> {self.folder}/calls; [ "$0" = removed ] || ! grep -q broken "$1/values.json"'
        return create(ApplierContext(device, state, {"folder": str(self.out), "hook": ["sh", "-c", script]}))

    def workload(self, key, kind):
        artifact = artifact_of(compose_archive(f"services: {{{kind}: {{}}}}\n"), self.folder, key.component)
        return make_workload(key, {"A": kind}, artifact, profile_type="compose")

    def running(self):
        links = {link: link.readlink() for link in self.out.glob("*-*/*")}
        contents = {path: path.stat().st_mtime_ns for link in links for path in link.rglob("*") if path.is_file()}
        return links, contents

    def stop(self, key):
        (self.out / key.deployment_id / key.component).unlink()


def test_a_workload_becomes_a_folder_with_all_another_tool_needs(tmp_path, out, make):
    wanted = item(tmp_path, {"GREETING": 'say "hi" to $USER\n', "PORT": 80, "TAGS": ("a", "b"), "ON": True})
    applier = make()
    applier.prepare(wanted)
    assert list(applier.observe()) == []
    applier.install(wanted)
    folder = out / ID / "hmi"
    assert (folder / "content/app/compose.yaml").read_text() == "services: {}\n"
    assert json.loads((folder / "values.json").read_bytes()) == {
        "GREETING": 'say "hi" to $USER\n', "PORT": 80, "TAGS": ["a", "b"], "ON": True,
    }  # fmt: skip
    deployment = read(ApplicationDeployment, read_yaml((folder / "deployment.yaml").read_bytes(), "deployment.yaml"))
    assert deployment == wanted.deployment
    assert yaml.safe_load((folder / "deployment.yaml").read_bytes())["id"] == ID
    (seen,) = applier.observe()
    assert (seen.key, seen.digest, seen.condition) == (wanted.key, wanted.digest, "unknown")


def test_values_for_shells_arrive_byte_for_byte(tmp_path, out, make):
    values = {
        f"V{number}": text
        for number, text in enumerate(["a b", "$HOME", "`id`", "'", '"', "\\", "a\\", "x\ny", "#", "ü", ""])
    }
    make().install(item(tmp_path, values))
    shell = f". {out / ID / 'hmi' / 'values.env'}; " + " ".join(f"printf '%s\\0' \"${name}\";" for name in values)
    said = subprocess.run(["sh", "-c", shell], capture_output=True, check=True).stdout.decode().split("\0")
    assert said[:-1] == list(values.values())


def test_values_are_for_their_owner_only(tmp_path, out, make):
    make().install(item(tmp_path, {"KEY": "x"}))
    assert {(out / ID / "hmi" / name).stat().st_mode & 0o777 for name in ("values.json", "values.env")} == {0o600}


def test_pointers_that_are_no_variables_get_no_environment_file(tmp_path, out, make):
    make().install(item(tmp_path, {"image.tag": "x"}, profile="helm"))
    assert not (out / ID / "hmi/values.env").exists()
    assert json.loads((out / ID / "hmi/values.json").read_bytes()) == {"image.tag": "x"}


def test_a_workload_without_content_is_written_all_the_same(out, make):
    make().install(workload(None, {"a.b": 1}, deployment_id=ID, profile="helm"))
    assert not (out / ID / "hmi/content").exists()


def test_a_change_moves_the_link_and_leaves_one_revision(tmp_path, out, make, hook):
    applier = make(hook=[str(hook), "extra"])
    applier.install(item(tmp_path, {"A": "old"}))
    before = (out / ID / "hmi").resolve()
    applier.install(item(tmp_path, {"A": "new"}))
    assert (out / ID / "hmi").resolve() != before
    assert not before.exists()
    assert json.loads((out / ID / "hmi/values.json").read_bytes()) == {"A": "new"}
    assert calls(tmp_path) == [f"extra installed {out}/{ID}/hmi"] * 2


def test_a_hook_that_fails_puts_the_previous_revision_back(tmp_path, out, make, hook):
    applier = make(hook=[str(hook), "x"])
    old = item(tmp_path, {"A": "old"})
    applier.install(old)
    (tmp_path / "refuse").write_text("evil")
    with pytest.raises(InstallFailed, match="hmi of line-hmi") as caught:
        applier.install(item(tmp_path, {"A": "evil"}))
    assert caught.value.reinstated
    assert "disk not found" in str(caught.value)
    assert "status 7" in str(caught.value)
    assert json.loads((out / ID / "hmi/values.json").read_bytes()) == {"A": "old"}
    assert applier.observe()[0].digest == old.digest


def test_a_hook_that_hangs_is_stopped(tmp_path, make):
    with pytest.raises(InstallFailed) as caught:
        make(hook=["sh", "-c", "sleep 600"], hookTimeoutSeconds=1).install(item(tmp_path))
    assert "did not end" in str(caught.value)


def test_a_missing_hook_is_named(tmp_path, make):
    with pytest.raises(InstallFailed) as caught:
        make(hook=["/nowhere/hook"]).install(item(tmp_path))
    assert "/nowhere/hook" in str(caught.value)


def test_an_installation_cut_off_before_its_hook_ended_is_not_seen_as_done(tmp_path, out, make, hook):
    old, new = item(tmp_path, {"A": "old"}), item(tmp_path, {"A": "evil"})
    applier = make(hook=[str(hook), "x"])
    applier.install(old)
    applier.prepare(new)
    link = out / ID / "hmi"
    link.unlink()
    link.symlink_to(f"../.revisions/{ID}/hmi/{new.digest[7:]}")
    assert applier.observe()[0].digest is None
    (tmp_path / "refuse").write_text("evil")
    with pytest.raises(InstallFailed) as caught:
        applier.install(new)
    assert caught.value.reinstated
    assert applier.observe()[0].digest == old.digest


def test_f20_a_removed_workload_leaves_no_file(tmp_path, out, make, hook):
    applier = make(hook=[str(hook)])
    applier.install(item(tmp_path))
    for _ in range(2):
        applier.remove(WorkloadKey(ID, "hmi"))
    assert tree(out) <= {".revisions"}
    assert calls(tmp_path)[1:] == [f"removed {out}/{ID}/hmi"]


def test_a_removal_whose_hook_failed_is_taken_up_again(tmp_path, out, make):
    applier = make(hook=["sh", "-c", f'[ "$0" != removed ] || [ -e {tmp_path}/allow ]'])
    applier.install(item(tmp_path))
    with pytest.raises(RemoveFailed):
        applier.remove(WorkloadKey(ID, "hmi"))
    assert not (out / ID / "hmi").exists()
    (tmp_path / "allow").touch()
    applier.remove(WorkloadKey(ID, "hmi"))
    assert tree(out) <= {".revisions"}


def test_f22_two_deployments_share_no_folder(tmp_path, out, make):
    other = str(uuid.uuid4())
    applier = make()
    applier.install(item(tmp_path, {"A": "1"}))
    applier.install(item(tmp_path, {"A": "2"}, deployment_id=other))
    assert (out / ID / "hmi").resolve() != (out / other / "hmi").resolve()
    applier.remove(WorkloadKey(ID, "hmi"))
    assert [seen.key.deployment_id for seen in applier.observe()] == [other]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", None])
def test_f14_a_damaged_record_is_seen_and_mended(tmp_path, out, make, damage):
    wanted = item(tmp_path)
    make().install(wanted)
    record = out / ID / "hmi/workload.json"
    record.unlink() if damage is None else record.write_bytes(damage)
    (seen,) = make().observe()
    assert (seen.digest, seen.condition) == (None, "degraded")
    make().install(wanted)
    assert make().observe()[0].digest == wanted.digest


def test_tampered_content_leaves_the_folder_as_it_was(tmp_path, out, make):
    make().install(item(tmp_path, {"A": "old"}))
    before = tree(out)
    bad = item(tmp_path, {"A": "new"}, source="services: {x: {}}\n")
    Path(bad.artifact.url.removeprefix("file://")).write_bytes(b"tampered")
    with pytest.raises(ArtifactRefused):
        make().prepare(bad)
    assert tree(out) == before
    assert leftovers(tmp_path) == []


def test_a_link_that_a_killed_update_left_is_no_component_and_goes(out, make, tmp_path):
    applier = make()
    first = item(tmp_path, {"A": "1"})
    applier.install(first)
    left = out / first.key.deployment_id / ".new-0123"
    left.symlink_to(first.key.component)
    assert [found.key for found in applier.observe()] == [first.key]
    applier.prepare(item(tmp_path, {"A": "2"}))
    assert not left.is_symlink()


def test_the_content_to_go_back_to_is_kept_and_needs_no_source(tmp_path, out, make, hook):
    applier = make(hook=[str(hook)])
    first, second, third = (item(tmp_path, {"A": text}) for text in "123")
    applier.install(first)
    applier.install(replace(second, keeps=first.digest))
    with pytest.raises(InstallFailed):
        make(hook=["false"]).install(replace(third, keeps=first.digest))
    # What ran before is back, not what is kept for the whole deployment.
    assert (out / ID / "hmi/values.json").read_bytes() == b'{"A":"2"}'
    Path(first.artifact.url.removeprefix("file://")).unlink()
    applier.prepare(first)
    applier.install(replace(first, keeps=first.digest))
    assert (out / ID / "hmi/values.json").read_bytes() == b'{"A":"1"}'
    assert calls(tmp_path).count(f"installed {out}/{ID}/hmi") == 3
    assert len([*(out / ".revisions" / ID / "hmi").iterdir()]) == 1


def test_an_edited_file_is_seen_and_written_again(tmp_path, out, make, hook):
    wanted = item(tmp_path, {"A": "1"})
    make(hook=[str(hook)]).install(wanted)
    edited = out / ID / "hmi/values.env"
    before = edited.stat()
    edited.write_bytes(b'A="2"\n')
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    (seen,) = make().observe()
    assert (seen.digest, seen.condition, seen.by_hand) == (wanted.digest, "degraded", "values.env was edited")
    make().prepare(wanted)
    assert edited.read_bytes() == b'A="2"\n', "preparing touches nothing that is used"
    make(hook=[str(hook)]).install(wanted)
    assert edited.read_bytes() == b'A="1"\n'
    assert (make().observe()[0].by_hand, len(calls(tmp_path))) == ("", 2)


def test_what_is_touched_or_put_beside_is_no_edit(tmp_path, out, make):
    make().install(item(tmp_path, {"A": "1"}))
    (out / ID / "hmi/values.env").touch()
    (out / ID / "hmi/notes.txt").write_text("from a hook")
    assert make().observe()[0].by_hand == ""
    for damaged in (b"[[1]]", b"7", b"["):
        (out / ID / "hmi/.written").write_bytes(damaged)
        assert make().observe()[0].by_hand == ".written was edited"


def test_what_is_stopped_for_a_while_stays_in_place_and_is_started_again(tmp_path, out, make, hook):
    wanted = item(tmp_path, {"A": "1"})
    applier = make(hook=[str(hook)])
    applier.stop(wanted.key)
    applier.start(wanted.key)
    assert calls(tmp_path) == [], "nothing is there"
    applier.install(wanted)
    applier.stop(wanted.key)
    (found,) = make().observe()
    assert (found.digest, found.condition, found.by_hand) == (wanted.digest, "degraded", "")
    make(hook=[str(hook)]).start(wanted.key)
    applier.start(wanted.key)
    folder = f"{out}/{ID}/hmi"
    assert calls(tmp_path) == [f"{event} {folder}" for event in ("installed", "stopped", "started")]
    assert [found.condition for found in applier.observe()] == ["unknown"]


def test_an_installation_starts_what_was_stopped(tmp_path, out, make, hook):
    applier = make(hook=["sh", "-c", f'echo "$0" >> {tmp_path}/calls; ! grep -q refused "$1/values.json"'])
    applier.install(item(tmp_path, {"A": "1"}))
    applier.stop(item(tmp_path).key)
    with pytest.raises(InstallFailed):
        applier.install(item(tmp_path, {"A": "refused"}))
    assert [found.condition for found in applier.observe()] == ["unknown"]
    applier.stop(item(tmp_path).key)
    applier.install(item(tmp_path, {"A": "1"}))
    assert [found.condition for found in applier.observe()] == ["unknown"]
    assert calls(tmp_path)[-1] == "installed"


def test_what_the_hook_does_not_stop_counts_as_stopped_until_it_is_started(tmp_path, make, hook):
    wanted = item(tmp_path, {"A": "1"})
    applier = make(hook=[str(hook), "of"])
    applier.install(wanted)
    (tmp_path / "refuse").write_text("A")
    for turn in (applier.stop, applier.start):
        with pytest.raises(StopFailed, match="the hook failed"):
            turn(wanted.key)
    (tmp_path / "refuse").unlink()
    applier.start(wanted.key)
    assert [found.condition for found in applier.observe()] == ["unknown"]


def test_a_workload_gets_its_artifacts_without_a_copy(tmp_path, make, out):
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    model.chmod(0o444)
    wanted = LargeArtifact("model.onnx", ("https://x.example/m",), sha256(b"weights"), 7)
    asked = replace(workload(None), artifacts=(HeldArtifact(wanted, model),))
    make().install(asked)
    place = out / asked.key.deployment_id / "hmi/artifacts/model.onnx"
    assert place.stat().st_ino == model.stat().st_ino
    assert make().observe()[0].condition == "unknown"
    place.unlink()
    place.write_bytes(b"edited")
    assert make().observe()[0].by_hand == "artifacts/model.onnx was edited"

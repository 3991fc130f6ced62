"""`artifact add`, `push` and `verify`, and what a device fetches of what they made."""

import json
import random
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder

from margo_gitops.content.chunks import bytes_to_fetch, read_index
from margo_gitops.content.fetch import Fetcher, Wanted
from margo_gitops.content.sources import Reach
from margo_gitops.content.store import ContentStore
from margo_gitops.digests import sha256
from margo_gitops.publishing.artifacts import describe, push

pytest.importorskip("fastcdc")
CONTENT = random.Random(3).randbytes(1_000_000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def plant(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder(tmp_path / "fleet")
    fleet.fleet()
    fleet.device("a")
    fleet.application()
    fleet.deployment("web")
    fleet.commit()
    return fleet


def artifact(plant: FleetFolder, *arguments: str | Path) -> Outcome:
    return margo_gitops("artifact", *arguments, cwd=plant.root)


def artifacts_of(plant: FleetFolder) -> list:
    return list(plant.read().deployments["web"].value.spec.artifacts)


def test_what_add_names_and_push_puts_there_is_what_a_device_fetches(plant: FleetFolder, model: Path, tmp_path: Path):
    served = tmp_path / "served"
    added = artifact(plant, "add", model, "--deployment", "web", "--url", f"{served.as_uri()}/")
    assert added.code == 0, added
    (made,) = artifacts_of(plant)
    assert (made.name, made.digest, made.size_bytes) == ("model.onnx", sha256(CONTENT), len(CONTENT))
    assert artifact(plant, "verify").code == 1
    assert "sent" in artifact(plant, "push", model, "--to", served).stdout
    assert "was there" in artifact(plant, "push", model, "--to", served).stdout
    for more in ((), ("--whole",), ("web",)):
        said = artifact(plant, "verify", "--output", "json", *more)
        assert (said.code, [row["problem"] for row in json.loads(said.stdout)]) == (0, [""])
    store = ContentStore(tmp_path / "device", keep_free=0)
    index = (made.index.digest, made.index.size_bytes)
    wanted = Wanted("model", made.digest, made.size_bytes, made.urls, index)
    assert Fetcher(store).fetch(wanted, seconds=60).read_bytes() == CONTENT
    assert store.index(made.digest, made.size_bytes) is not None
    (served / sha256(CONTENT)[7:]).write_bytes(b"other")
    assert artifact(plant, "verify", "--whole").code == 1


def test_a_newer_file_takes_the_place_of_the_older_one_and_keeps_its_components(plant: FleetFolder, model: Path):
    artifact(plant, "add", model, "--deployment", "web", "--url", "https://x.example/")
    before = plant.read().deployments["web"].value.spec.artifacts
    model.write_bytes(CONTENT[:500_000] + b"changed" + CONTENT[500_000:])
    artifact(plant, "add", model, "--deployment", "web", "--url", "https://x.example/", "--url", "oci://r.example/m")
    (made,) = artifacts_of(plant)
    assert [each.digest for each in before] != [made.digest]
    assert made.urls == (f"https://x.example/{made.digest[7:]}", "oci://r.example/m")


def test_a_small_change_costs_a_few_chunks(model: Path):
    old = describe(model)
    model.write_bytes(CONTENT[:500_000] + b"changed" + CONTENT[500_000:])
    new = describe(model)
    indexes = [read_index(each.index, each.size) for each in (new, old)]
    assert 0 < bytes_to_fetch(indexes[0], indexes[1:]) < 200_000


def test_a_folder_that_push_filled_is_a_mirror_as_it_is(model: Path, tmp_path: Path):
    file = describe(model)
    push(file, str(tmp_path / "mirror"))
    names = {path.name for path in (tmp_path / "mirror").iterdir()}
    assert names == {file.key, f"{file.key}.caibx", sha256(file.index)[7:]}
    assert Reach(["https://m.example/"]).sources(file.digest, 1, ())[0].name == f"https://m.example/{file.key}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--deployment", "wbe", "--url", "https://x.example/"), "MG1206", "did you mean web?"),
        (("--deployment", "web", "--url", "http://x.example/"), "MG2024", "write https://"),
    ],
)
def test_what_cannot_be_added_is_refused_with_what_to_do(plant: FleetFolder, model: Path, arguments, code, said):
    ended = artifact(plant, "add", model, *arguments)
    assert ended.code != 0
    assert code in ended.stderr
    assert said in ended.stderr

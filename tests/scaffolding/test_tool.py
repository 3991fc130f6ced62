"""Where the scaffold's pipelines find margo-gitops (TOOL-1 to TOOL-3)."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from margo_gitops.errors import ScaffoldRefused
from margo_gitops.scaffolding import tool
from margo_gitops.scaffolding.record import RECORD_FILE, read_record
from margo_gitops.scaffolding.scaffold import scaffold
from margo_gitops.scaffolding.template import REQUIREMENTS_FILE, Answers, tooling_files
from margo_gitops.scaffolding.upgrade import upgrade

DIGEST = "ab" * 32
COMMIT = "cd" * 20
WHEEL = f"https://files.plant.example/margo_gitops-0.1.0-py3-none-any.whl#sha256={DIGEST}"
GIT = f"git+https://git.plant.example/margo-gitops.git@{COMMIT}"


class Installed(Distribution):
    """This program, as installed from somewhere."""

    def __init__(self, direct_url: object) -> None:
        self.direct_url = direct_url

    def read_text(self, filename: str) -> str | None:
        return json.dumps(self.direct_url) if self.direct_url and filename == "direct_url.json" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError(path)


@pytest.mark.parametrize(
    ("direct_url", "url", "pipelines"),
    [
        (None, "", None),
        (
            {"url": WHEEL.partition("#")[0], "archive_info": {"hashes": {"sha256": DIGEST}}},
            WHEEL,
            WHEEL,
        ),
        (
            {"url": GIT[4:].partition("@")[0], "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            GIT,
            GIT,
        ),
        ({"url": "file:///src", "dir_info": {"editable": True}}, "file:///src", None),
        (
            {"url": "file:///tmp/a.whl", "archive_info": {"hashes": {"sha256": DIGEST}}},
            f"file:///tmp/a.whl#sha256={DIGEST}",
            None,
        ),
    ],
    ids=["index", "wheel", "git", "editable", "wheel on disk"],
)
def test_the_place_that_this_program_came_from_is_known(
    monkeypatch: pytest.MonkeyPatch, direct_url: object, url: str, pipelines: str | None
) -> None:
    monkeypatch.setattr(tool, "distribution", lambda _name: Installed(direct_url))
    told = tool.how_to_install("server")
    assert told == (f"pip install 'margo-gitops[server] @ {url}'" if url else told)
    assert ("pip install" in told) is bool(url), "never by its name alone"
    found = tool.requirements(None)
    assert found == (f"margo-gitops[operator] @ {pipelines}\n".encode() if pipelines else None)


def test_a_place_is_believed_only_with_what_proves_it(tmp_path: Path) -> None:
    for source in (WHEEL, GIT, f"git+ssh://git@git.plant.example:2222/tool.git@{COMMIT}"):
        (line,) = (tool.requirements(source) or b"").decode().splitlines()
        assert Requirement(line).url == source
    file = tmp_path / "requirements.txt"
    file.write_text(f"""\
# An index of the plant's own.
--index-url https://pypi.plant.example/simple/
-f https://files.plant.example/
margo_gitops[operator]==0.1.0 \\
    --hash=sha256:{DIGEST}
click==8.1.8 --hash=sha256:{DIGEST}  # via margo-gitops
""")
    assert tool.requirements(str(file)) == file.read_bytes()
    wrong = [WHEEL.partition("#")[0], WHEEL[:-1], GIT[:-1], f"{GIT.rpartition('@')[0]}@main", "nosuch.txt"]
    wrong += [WHEEL.replace("https", "http"), WHEEL.replace("https://", "https://me:secret@")]
    good = file.read_text()
    for number, text in enumerate(
        [good.replace("click==8.1.8 --hash", "click==8.1.8 # --no"), good.replace("margo_gitops", "margo_other")]
        + [f"{good}{line}\n" for line in ("-r more.txt", "-e .", "--requirement=more.txt", "./a.whl", "pip")]
    ):
        place = tmp_path / f"{number}.txt"
        place.write_text(text)
        wrong.append(str(place))
    for source in wrong:
        with pytest.raises(ScaffoldRefused):
            tool.requirements(source)


def test_where_nobody_knows_the_place_no_index_is_asked() -> None:
    text = tooling_files(Answers("plant"))[REQUIREMENTS_FILE].decode()
    assert next(line for line in text.splitlines() if not line.startswith("#")) == "--no-index"
    assert not tool.proved(text)


def test_an_upgrade_keeps_the_place_until_it_is_told_another(tmp_path: Path) -> None:
    wanted = tool.requirements(WHEEL)
    scaffold(tmp_path / "plant", Answers("plant"), requirements=wanted)
    place = tmp_path / "plant" / REQUIREMENTS_FILE
    upgrade(tmp_path / "plant", allow_dirty=True)
    assert place.read_bytes() == wanted
    upgrade(tmp_path / "plant", requirements=tool.requirements(GIT), allow_dirty=True)
    assert place.read_bytes() == tool.requirements(GIT)
    record = read_record((tmp_path / "plant" / RECORD_FILE).read_bytes())
    assert record.by_path()[REQUIREMENTS_FILE].text == place.read_text()

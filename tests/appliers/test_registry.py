import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.registry import applier_names, create_applier
from margo_gitops.errors import ApplierUnusable, ExitCode

GUIDE = Path(__file__).parents[2] / "docs/appliers.md"


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    site = tmp_path / "site"

    def install(name: str, source: str, module: str = "acme_applier") -> None:
        info = site / f"{module}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[margo_gitops.appliers]\n{name} = {module}:create\n")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def context(folder, /, **settings):
    return ApplierContext("press-07", folder, settings)


def test_the_built_in_appliers_are_found_by_name(tmp_path):
    assert {"compose", "files"} <= set(applier_names())
    assert create_applier("compose", context(tmp_path)).profile_types == ("compose",)
    assert "helm" in create_applier("files", context(tmp_path, folder="/x")).profile_types


def test_an_unknown_name_is_answered_with_those_installed(tmp_path):
    with pytest.raises(ApplierUnusable, match="there is no applier docker") as caught:
        create_applier("docker", context(tmp_path))
    assert "compose, files" in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_listing_names_imports_no_plug_in(plug_in):
    plug_in("acme", "raise RuntimeError('imported')")
    assert "acme" in applier_names()
    assert "acme_applier" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nowhere_at_all", "nowhere_at_all"),
        ("this is not a python", "SyntaxError"),
        ("def other(): pass", "create"),
        ("def create(): pass", "TypeError"),
        ("def create(context): return object()", "no prepare, install, remove, observe"),
        ("def create(context): raise ValueError('boom')", "ValueError: boom"),
    ],
)
def test_a_broken_plug_in_is_named_with_its_package(plug_in, tmp_path, source, reason):
    plug_in("acme", source)
    with pytest.raises(ApplierUnusable, match="acme from the package acme_applier") as caught:
        create_applier("acme", context(tmp_path))
    assert reason in str(caught.value)


def test_two_packages_with_one_name_are_refused(plug_in, tmp_path):
    plug_in("acme", "def create(context): pass", "acme_one")
    plug_in("acme", "def create(context): pass", "acme_two")
    with pytest.raises(ApplierUnusable, match="several packages"):
        create_applier("acme", context(tmp_path))


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("compose", {"comand": ["docker", "compose"]}, "no setting comand"),
        ("compose", {"command": "docker compose"}, "list of texts"),
        ("compose", {"command": []}, "list of texts"),
        ("compose", {"command": ["docker"]}, 'and "compose"'),
        ("compose", {"removeVolumes": "yes"}, "true or false"),
        ("compose", {"removeVolumes": 1}, "true or false"),
        ("compose", {"caFile": "a\0b"}, "must be a path"),
        ("compose", {"maxArtifactBytes": 0}, "at least 1"),
        ("compose", {"maxArtifactBytes": True}, "at least 1"),
        ("files", {}, "no folder"),
        ("files", {"folder": "/x", "hookTimeoutSeconds": True}, "at least 1"),
        ("files", {"folder": ""}, "not empty"),
        ("files", {"folder": "/x", "hook": ["a", 1]}, "list of texts"),
        ("files", {"folder": "/x", "token": "verysecret"}, "no setting token"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, name, settings, reason):
    with pytest.raises(ApplierUnusable, match=reason) as caught:
        create_applier(name, context(tmp_path, **settings))
    assert "verysecret" not in str(caught.value)


@pytest.mark.real
def test_the_plug_in_of_the_guide_keeps_the_promises(tmp_path):
    source, tests = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "acme_recipes.py").write_text(source)
    (tmp_path / "test_recipes.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_recipes.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "6 passed" in ran.stdout, ran.stdout


def test_the_plug_in_of_the_guide_refuses_other_settings(plug_in, tmp_path):
    source = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1)
    plug_in("recipes", source, "acme_recipes")
    with pytest.raises(ApplierUnusable, match="one setting, folder"):
        create_applier("recipes", context(tmp_path, other=1))


@pytest.mark.parametrize("name", ["compose", "files"])
def test_the_guide_names_every_setting(tmp_path, name):
    with pytest.raises(ApplierUnusable) as caught:
        create_applier(name, context(tmp_path, unknown=1, folder="/x"))
    told = GUIDE.read_text()
    settings = caught.value.remedy.removeprefix("its settings are ").split(", ")
    assert len(settings) >= 5
    assert [setting for setting in settings if f"`{setting}`" not in told] == []

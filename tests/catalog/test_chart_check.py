"""A chart that cannot run is found when its package is added and validated, without the helm program."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter, profile

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.package_check import check_package
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.errors import Finding, PackageInvalid

CHART = "apiVersion: v2\nname: web\nversion: 1.0.0\n"
TEMPLATE = "kind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n"
FILES = {
    "Chart.yaml": CHART,
    "values.yaml": "image:\n  tag: '1'\nport: 80\nnodeSelector: {}\nextra: null\n",
    "templates/map.yaml": TEMPLATE,
}


def findings(folder: Path, files: dict[str, str | bytes], *, archive: str | None = None, **pointers: object):
    """Return what is found in a package with one chart of these files.

    Args:
        archive: the folder in the tar.gz that the chart is packed as; None: the chart is a folder.
        pointers: defaults of parameters by pointer; `__` is a dot.
    """
    fleet = FleetFolder.empty(folder / "fleet")
    part = profile("web", "helm")
    path = "chart" if archive is None else "chart.tgz"
    part["components"][0][OWN_EXTENSION] = {"artifact": {"path": path}}
    parameters = {
        f"p{at}": parameter("web", pointer=name.replace("__", "."), value=value)
        for at, (name, value) in enumerate(pointers.items())
    }
    place = fleet.application("app", pin=False, deploymentProfiles=[part], parameters=parameters)
    contents = {name: each.encode() if isinstance(each, str) else each for name, each in files.items()}
    if archive is None:
        for name, content in contents.items():
            fleet.put(f"{place}/chart/{name}", content)
    else:
        fleet.put(f"{place}/chart.tgz", packed({f"{archive}{name}": each for name, each in contents.items()}))
    try:
        return list(check_package(DiskTree(fleet.root / place), "app/").findings)
    except PackageInvalid as error:
        return list(error.findings)


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def shown(found: list[Finding]) -> list[str]:
    return [f"{each.severity} {each.rule} {each.location}" for each in found]


def test_a_chart_that_can_run_has_no_findings(tmp_path: Path):
    given = {"image__tag": "2", "nodeSelector__disk": "ssd", "extra__a": 1, "global__b": 2}
    assert findings(tmp_path, dict(FILES), **given) == []


@pytest.mark.parametrize("folder", ["", "web/"], ids=["at the top", "in a folder"])
def test_a_chart_may_be_an_archive(tmp_path: Path, folder: str):
    assert findings(tmp_path, dict(FILES), archive=folder, port=81) == []
    found = findings(tmp_path, {**FILES, "templates/a.yaml": "\n{{ lookup }}"}, archive=folder)
    assert [(str(each.location), each.message[:19]) for each in found] == [("app/chart.tgz", "templates/a.yaml:2:")]


WRONG: dict[str, tuple[str, str | bytes, list[str]]] = {
    "not YAML": ("Chart.yaml", "name: [", ["error R213 app/chart/Chart.yaml:1:7"]),
    "chart API v1": ("Chart.yaml", CHART.replace("v2", "v1"), ["error R214 app/chart/Chart.yaml:1:13"]),
    "another name": ("Chart.yaml", CHART.replace("web", "api"), ["error R214 app/chart/Chart.yaml:2:7"]),
    "another version": ("Chart.yaml", CHART.replace("1.0.0", "1.0.1"), ["error R214 app/chart/Chart.yaml:3:10"]),
    "no version": ("Chart.yaml", "apiVersion: v2\nname: web\n", ["error R214 app/chart/Chart.yaml:1:1"]),
    "a library": ("Chart.yaml", CHART + "type: library\n", ["error R214 app/chart/Chart.yaml:4:7"]),
    "a dependency that is not there": (
        "Chart.yaml",
        CHART + "dependencies:\n  - name: db\n    version: 1.0.0\n",
        ["error R219 app/chart/Chart.yaml:5:5"],
    ),
    "values are not YAML": ("values.yaml", "a: b: c", ["error R213 app/chart/values.yaml:1:5"]),
    "a definition": ("crds/x.yaml", "", ["error R218 app/chart/crds/x.yaml"]),
    "lookup": (
        "templates/a.yaml",
        "a: 1\nb: {{- if (lookup `v1` 1) }}",
        ["error R218 app/chart/templates/a.yaml:2:12"],
    ),
    "a hook": (
        "templates/a.yaml",
        'annotations:\n  "helm.sh/hook": pre-install\n',
        ["error R218 app/chart/templates/a.yaml:2:19"],
    ),
    "a test": ("templates/a.yaml", "helm.sh/hook: test", ["warning R218 app/chart/templates/a.yaml:1:15"]),
    "chance": ("templates/a.yaml", "{{ randAlphaNum 5 }}", ["warning R220 app/chart/templates/a.yaml:1:4"]),
    "not these": ("templates/a.yaml", '{{ .now }} {{/* now */}} {{ "now" }} {{ $now }} now {{ nowhere }}', []),
    "in notes": ("templates/NOTES.txt", "{{ now }}", []),
}


@pytest.mark.parametrize(("file", "content", "expected"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_chart_is_found_at_its_line(
    tmp_path: Path, file: str, content: str | bytes, expected: list[str]
):
    assert shown(findings(tmp_path, {**FILES, file: content})) == expected


def test_a_folder_without_a_chart_or_templates_is_found(tmp_path: Path):
    assert [each.rule for each in findings(tmp_path / "a", {"compose.yaml": ""})] == ["R213"]
    assert [each.rule for each in findings(tmp_path / "b", {"Chart.yaml": CHART})] == ["R214"]
    assert [each.rule for each in findings(tmp_path / "c", {"x": b""}, archive="../")] == ["R213"]


def test_a_subchart_is_checked_too_and_may_be_an_archive(tmp_path: Path):
    chart = CHART + "dependencies:\n  - name: db\n    version: 1.0.0\n"
    inside = {"db/Chart.yaml": CHART.replace("web", "db").encode(), "db/templates/a.yaml": b"{{ lookup }}"}
    found = findings(tmp_path, {**FILES, "Chart.yaml": chart, "charts/db-1.0.0.tgz": packed(inside)}, db__any="x")
    assert shown(found) == ["warning R218 app/chart/charts/db-1.0.0/templates/a.yaml:1:4"]


def test_a_chart_that_is_too_large_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("margo_gitops.documents.charts.MAX_BYTES", 100_000)
    bomb = packed({"db/Chart.yaml": b"a" * 200_000})
    (found,) = findings(tmp_path, {**FILES, "charts/db.tgz": bomb})
    assert (found.rule, "100000 bytes" in found.message) == ("R213", True)


def test_a_pointer_must_be_a_path_that_values_have(tmp_path: Path):
    found = findings(tmp_path, dict(FILES), **{"image__tga": "2", "image": "x", "a[": 1, "prot": 1})
    assert [each.rule for each in found] == ["R215", "R215", "R216", "R216", "R216"]
    assert found[2].remedy == "did you mean image.tag?"
    assert "replaces a mapping of values.yaml, with tag" in found[3].message


def test_defaults_follow_the_schema_of_the_chart(tmp_path: Path):
    schema = {
        "properties": {"port": {"type": "integer"}, "image": {"properties": {"tag": {"pattern": "^[0-9]+$"}}}},
        "required": ["port"],
    }
    files = {**FILES, "values.schema.json": json.dumps(schema)}
    assert findings(tmp_path / "a", files, port=8080) == []
    found = findings(tmp_path / "b", files, port="8080", image__tag="latest")
    assert [(each.rule, each.severity, each.message.split(" does not")[0]) for each in found] == [
        ("R217", "error", "the default of parameter p0"),
        ("R217", "error", "the default of parameter p1"),
    ]


HOSTILE = {
    "a URL": {"$ref": "https://127.0.0.1:1/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "a loop": {"$ref": "#"},
    "a bomb": {"$defs": {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 10} for at in range(20)} | {"d20": {}}}
    | {"$ref": "#/$defs/d0"},
    "no schema": {"type": 5},
    "a slow pattern": {"patternProperties": {"(a+)+$": {}}, "properties": {"port": {"pattern": "(a+)+$"}}},
    "a list": [],
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_the_schema_of_a_stranger_reaches_nothing_and_ends(tmp_path: Path, schema: object):
    found = findings(tmp_path, {**FILES, "values.schema.json": json.dumps(schema)}, port="a" * 40 + "!")
    assert all(each.rule == "R217" for each in found)
    assert "root:" not in str(found)

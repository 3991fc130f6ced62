"""A plan says which Kubernetes objects change, as the chart and the manifests make them, and runs nothing else."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.fleet import FleetFolder, profile

from margo_gitops.operations.plan.chart_templates import ChartTemplates, Cluster
from margo_gitops.operations.plan.plan_text import as_text
from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.rendering.changes import Plan

TEMPLATE = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-settings
  namespace: {{ .Release.Namespace }}
data:
  text: {{ printf "say %s" .Values.text | quote }}
  number: {{ .Values.number | quote }}
  cluster: {{ .Capabilities.KubeVersion.Version }}
  api: {{ .Capabilities.APIVersions.Has "plant.example/v1" | quote }}
{{- if .Values.extra }}
---
apiVersion: v1
kind: Secret
metadata: {name: extra}
stringData: {key: {{ .Values.extra }}}
{{- end }}
"""
VALUES = "text: none\nnumber: 0\nextra: ''\n"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    """A fleet with two clusters; the second one says which Kubernetes it has."""
    fleet = FleetFolder.empty(tmp_path / "fleet", artifacts={"baseUrl": "file:///srv/"})
    helm = {"supportedDeploymentTypes": ["helm", "custom"]}
    fleet.device("cell", properties=helm, text="Hello")
    labels = {"org.margo-gitops.kubernetes-version": "1.34.1", "org.margo-gitops.kubernetes-apis": ["plant.example/v1"]}
    fleet.device("cluster", properties=helm, capability_labels=labels, text="Hello")
    application(fleet, "helm", {"Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.0.0\n", "values.yaml": VALUES})
    fleet.put("applications/app/1.0.0/content/templates/all.yaml", TEMPLATE)
    fleet.pin()
    fleet.deployment("web")
    fleet.commit()
    return fleet


def application(fleet: FleetFolder, kind: str, files: dict[str, str], **more: Any) -> None:
    part = profile("web", kind)
    part["components"][0]["x-margo-gitops-extensions"] = {"artifact": {"path": "content"}, **more}
    pointers = ("text", "number", "extra") if kind == "helm" else ("ConfigMap/web:data.text",)
    parameters = {
        pointer.rpartition(".")[2]: {"targets": [{"pointer": pointer, "components": ["web"]}]} for pointer in pointers
    }
    for name, content in files.items():
        fleet.put(f"applications/app/1.0.0/content/{name}", content)
    fleet.application(deploymentProfiles=[part], parameters=parameters)


def plan(fleet: FleetFolder, helm: Path | None = None) -> Plan:
    return plan_fleet(PlanRequest(fleet.root, None, "HEAD", None, fleet.root.parent / "cache", helm=helm))


def objects(made: Plan, device: str = "cell") -> list[str]:
    """Return what a plan says of the objects of a device, one line for each field."""
    found = [each for change in made.devices if change.device == device for each in change.deployments[0].objects]
    lines = []
    for each in found:
        lines += [f"{each.change} {each.title}"] if not each.fields else []
        lines += [f"{each.title} {field.path} {field.before} {field.after}" for field in each.fields]
    return lines


@pytest.mark.real
@pytest.mark.parametrize("helm_program", [3, 4], indirect=True)
def test_a_plan_templates_charts_before_and_after(fleet: FleetFolder, helm_program: Path):
    fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Servus", number=1000000, extra="key")
    made = plan(fleet, helm_program)
    assert made.notes == ()
    assert objects(made) == [
        'ConfigMap margo/web-settings data.number "0" "1000000"',
        'ConfigMap margo/web-settings data.text "say Hello" "say Servus"',
        "added Secret extra",
    ]
    origin = made.devices[0].deployments[0].objects[0].fields[1].origin
    assert origin is not None
    assert (origin.layer, origin.file) == ("device cell", "devices/cell.yaml")
    text = "\n".join(as_text(made))
    assert (
        f'ConfigMap margo/web-settings: data.text "say Hello" -> "say Servus"  from devices/cell.yaml:{origin.line}'
        in text
    )
    assert "web: Secret extra added" in text


@pytest.mark.real
def test_the_device_document_says_which_cluster_a_chart_finds(fleet: FleetFolder, helm_program: Path):
    fleet.change("applications/app/1.0.0/content/values.yaml", "none", "any")
    fleet.pin()
    fleet.remove("deployments/web.yaml")
    fleet.commit()
    fleet.deployment("web")
    templates = ChartTemplates(helm_program)
    assert Cluster().version == "1.31.0"
    made = plan(fleet, helm_program)
    assert objects(made) == objects(made, "cluster") == ["added ConfigMap margo/web-settings"]
    assert templates.program == helm_program


@pytest.mark.real
def test_what_changes_each_time_is_named_without_a_value(fleet: FleetFolder, helm_program: Path):
    fleet.put(
        "applications/app/1.0.0/content/templates/all.yaml", TEMPLATE.replace(".Values.number", "(randAlphaNum 9)")
    )
    fleet.pin()
    fleet.commit()
    fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Servus")
    assert objects(plan(fleet, helm_program)) == [
        "ConfigMap margo/web-settings data.number (changes each time) (changes each time)",
        'ConfigMap margo/web-settings data.text "say Hello" "say Servus"',
    ]


@pytest.mark.real
def test_a_chart_reaches_nothing_and_ends(fleet: FleetFolder, helm_program: Path, monkeypatch: pytest.MonkeyPatch):
    """A stranger's chart sees no variable and no file of this machine, and cannot use it up (TEMPLATE-1 and 2)."""
    monkeypatch.setenv("TOKEN", "the-token")
    template = TEMPLATE.replace(
        "  api:",
        '  reach: {{ printf "%v" (.Files.Get "/etc/hostname") | quote }}{{ .Files.Get "../values.json" }}\n  api:',
    )
    place = "applications/app/1.0.0/content/templates/all.yaml"
    fleet.put(place, template)
    fleet.pin()
    fleet.commit()
    fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Servus")
    assert objects(plan(fleet, helm_program)) == ['ConfigMap margo/web-settings data.text "say Hello" "say Servus"']
    for evil, reason in (
        ('{{ env "TOKEN" }}', 'function "env" not defined'),
        ('{{ repeat 4000000000 "x" }}', "helm refuses it"),
        ("{{ fail .Values.text }}", "Hello"),
        ("a: &a [1]\nb: *a", "cannot be read"),
    ):
        fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Hello")
        fleet.put(place, evil)
        fleet.pin()
        fleet.commit()
        fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Servus")
        made = plan(fleet, helm_program)
        assert objects(made) == []
        assert len(made.notes) == 1
        assert reason in made.notes[0]


def test_a_plan_says_why_it_shows_no_objects(fleet: FleetFolder):
    fleet.device("cell", properties={"supportedDeploymentTypes": ["helm"]}, text="Servus")
    made = plan(fleet)
    assert made.notes == ("Kubernetes objects of web/web are not shown: there is no helm program in PATH",)
    assert objects(made) == []
    assert [each.name for each in made.devices[0].deployments[0].parameters] == ["text"]


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_a_plan_compares_manifests_without_a_program(tmp_path: Path, *, archive: bool):
    fleet = FleetFolder.empty(tmp_path / "fleet", artifacts={"baseUrl": "file:///srv/"})
    fleet.device("cell", properties={"supportedDeploymentTypes": ["custom"]}, text="Hello")
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: none}\n"
    application(fleet, "custom", {"web.yaml": manifest}, format="kubernetes")
    if archive:
        package = fleet.root / "applications/app/1.0.0"
        with tarfile.open(package / "content.tar.gz", "w:gz") as tar:
            tar.add(package / "content", ".")
        shutil.rmtree(package / "content")
        fleet.change("applications/app/1.0.0/margo.yaml", '"content"', '"content.tar.gz"')
        fleet.pin()
    fleet.deployment("web")
    fleet.commit()
    fleet.device("cell", properties={"supportedDeploymentTypes": ["custom"]}, text="Servus")
    assert objects(plan(fleet)) == ['ConfigMap web data.text "Hello" "Servus"']
    fleet.remove("deployments/web.yaml")
    assert objects(plan(fleet)) == ["removed ConfigMap web"]

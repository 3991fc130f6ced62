"""A new application package: a compose file or a chart, a parameter with its rules, and what the registry needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from margo_gitops.catalog.package import COMPOSE_FILE, DESCRIPTION_FILE
from margo_gitops.disk.files import disk_errors, replace_file
from margo_gitops.errors import PackageInvalid
from margo_gitops.registry.references import Reference

_DESCRIPTION: Final = """\
apiVersion: v1
id: {id}
metadata:
  name: {title}
  description: Says a greeting in its log, every few seconds.
  version: 0.1.0
  catalog:
    application:
      descriptionFile: ./resources/description.md
      tagline: What it is for, in one line
    organization:
      - name: {organization}
deploymentProfiles:
  - type: {kind}
    id: {kind}
    components:
      - name: {name}
        properties:
          repository: {repository}
          revision: 0.1.0
          wait: true
          timeout: 1m0s
        x-margo-gitops-extensions:
          artifact:
            path: components/{name}
    deviceConstraints:
      capacityRequirements:
        memory: 64Mi
parameters:
  greeting:
    value: Hello
    targets:
      - pointer: {greeting}
        components: [{name}]
  image:
    value: docker.io/library/busybox:1.36
    targets:
      - pointer: {image}
        components: [{name}]
configuration:
  sections:
    - name: General
      settings:
        - parameter: greeting
          name: Greeting
          description: What it says.
          schema: shortText
        - parameter: image
          name: Image
          description: Any image with a shell.
          schema: imageReference
  schema:
    - name: shortText
      dataType: string
      allowEmpty: false
      maxLength: 80
    - name: imageReference
      dataType: string
      allowEmpty: false
      regexMatch: "[a-z0-9][A-Za-z0-9._/:@-]*"
"""
_COMPOSE: Final = """\
services:
  {name}:
    image: ${{IMAGE}}
    command: [sh, -c, "trap exit TERM; while true; do echo $$GREETING; sleep 5 & wait $$!; done"]
    environment:
      GREETING: ${{GREETING}}
    restart: unless-stopped
"""
_CHART: Final = """\
apiVersion: v2
name: {name}
description: Says a greeting in its log, every few seconds.
type: application
version: 0.1.0
"""
_VALUES: Final = """\
greeting: Hello
image: docker.io/library/busybox:1.36
"""
_TEMPLATE: Final = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  selector:
    matchLabels:
      app: {{ .Release.Name }}
  template:
    metadata:
      labels:
        app: {{ .Release.Name }}
    spec:
      containers:
        - name: greeting
          image: {{ .Values.image | quote }}
          command: [sh, -c, "trap exit TERM; while true; do echo $GREETING; sleep 5 & wait $!; done"]
          env:
            - name: GREETING
              value: {{ .Values.greeting | quote }}
"""


def new_package(folder: Path, place: Reference, name: str, kind: Literal["compose", "helm"]) -> str:
    """Write a package that is valid as it is; return the application's id.

    Args:
        folder: is made; nothing may be in it.
        place: where packages of this supplier go, `oci://registry.example.com/acme`.
        name: of the application, and of its component.

    Raises:
        PackageInvalid: the folder is there, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PackageInvalid(f"{folder} is not empty", remedy="name a new folder")
    organization = place.repository.rpartition("/")[2]
    application = f"com-{organization}-{name}".replace("_", "-").replace(".", "-")
    own = "charts" if kind == "helm" else "components"
    facts = {
        "id": application,
        "title": name.replace("-", " ").capitalize(),
        "organization": organization,
        "kind": kind,
        "name": name,
        "repository": f"{place.place}/{own}/{name}",
        "greeting": "greeting" if kind == "helm" else "GREETING",
        "image": "image" if kind == "helm" else "IMAGE",
    }
    files = {
        DESCRIPTION_FILE: _DESCRIPTION.format(**facts),
        "resources/description.md": f"# {facts['title']}\n\nWhat it does, for the people who choose it.\n",
    }
    if kind == "helm":
        files |= {"Chart.yaml": _CHART.format(**facts), "values.yaml": _VALUES, "templates/deployment.yaml": _TEMPLATE}
    else:
        files[COMPOSE_FILE] = _COMPOSE.format(**facts)
    with disk_errors(folder, what="the package cannot be written", error=PackageInvalid):
        for path, content in files.items():
            inside = path == DESCRIPTION_FILE or path.startswith("resources/")
            target = folder / path if inside else folder / "components" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, content.encode(), mode=0o644)
    return application

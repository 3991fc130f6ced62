"""What a Helm chart makes of values: `helm template` on a copy of the chart, with nothing else within its reach.

TEMPLATE-1  The chart is a stranger's. Helm gets an empty home, no plugins, no repositories and no cluster; it fetches
            nothing, and does not read values.schema.json, whose references could lead it elsewhere.
TEMPLATE-2  Its time, processor time, memory and output are bounded; so are the runs of one plan.
TEMPLATE-3  The result depends on chart, values and the device's Kubernetes version and APIs alone. The release has the
            component's name, so that equal devices have equal objects.
TEMPLATE-4  A secret's value is not known here: a fixed text is in its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from margo_gitops.appliers.programs import run_program
from margo_gitops.documents.charts import Chart
from margo_gitops.documents.helm_values import large_numbers
from margo_gitops.documents.kubernetes_objects import KubernetesObject, read_objects
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ManifestInvalid
from margo_gitops.values import dataclass, field

DEFAULT_VERSION: Final = "1.31.0"
"""The Kubernetes of a device whose document names none."""
_SECONDS = 20.0
_MOST_SECONDS = 120.0
_MOST_RUNS = 200
_MOST_OUTPUT = 4 * 1024 * 1024 - 1
# Kilobytes of memory, seconds of processor time and blocks of a file; a shell is what every machine has to set them.
_BOUNDED = ["/bin/sh", "-c", 'ulimit -d 1048576 && ulimit -t 30 && ulimit -f 65536 && exec "$@"', "helm"]


class NotTemplatedError(Exception):
    """Why the objects of a chart are not known; the text is the end of "its objects are not shown: …"."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a chart may ask of the cluster.

    Attributes:
        version: of Kubernetes, "1.34.1".
        apis: that a chart may find, "batch/v1".
    """

    version: str = DEFAULT_VERSION
    apis: tuple[str, ...] = ()


@dataclass(slots=True)
class ChartTemplates:
    """Templates charts with a helm program; equal questions are answered once.

    Attributes:
        program: of helm, 3.17 or later; None: no helm program.
    """

    program: Path | None
    _known: dict[tuple[object, ...], tuple[KubernetesObject, ...] | NotTemplatedError] = field(default_factory=dict)
    _runs: int = 0
    _seconds: float = 0.0

    def objects(
        self, digest: str, chart: Chart, name: str, namespace: str, values: Mapping[str, Json], cluster: Cluster
    ) -> tuple[KubernetesObject, ...]:
        """Return what a chart makes of values (NotTemplatedError: it cannot be known).

        Args:
            digest: of the chart.
            name: of the component.
        """
        key = (digest, name, namespace, json.dumps(values, sort_keys=True), cluster)
        if key not in self._known:
            try:
                self._known[key] = self.once(chart, name, namespace, values, cluster)
            except NotTemplatedError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, NotTemplatedError):
            raise known
        return known

    def once(
        self, chart: Chart, name: str, namespace: str, values: Mapping[str, Json], cluster: Cluster
    ) -> tuple[KubernetesObject, ...]:
        """Return what a chart makes of values this time (NotTemplatedError: as `objects`)."""
        if self.program is None:
            raise NotTemplatedError("there is no helm program in PATH")
        if self._runs >= _MOST_RUNS or self._seconds > _MOST_SECONDS:
            raise NotTemplatedError("too many charts change; name one device")
        self._runs += 1
        began = time.monotonic()
        try:
            with TemporaryDirectory(prefix="margo-gitops-chart-") as folder:
                output = self._run(Path(folder), chart, name, namespace, values, cluster)
        except (OSError, ValueError) as error:
            raise NotTemplatedError(f"helm cannot be run: {error}") from error
        finally:
            self._seconds += time.monotonic() - began
        try:
            return read_objects([(f"{name}.yaml", output.encode())])
        except ManifestInvalid as error:
            raise NotTemplatedError(f"what helm makes cannot be read: {error.what} ({error.where})") from error

    def _run(
        self, folder: Path, chart: Chart, name: str, namespace: str, values: Mapping[str, Json], cluster: Cluster
    ) -> str:
        (folder / "home").mkdir()
        for path, content in chart.files.items():
            place = folder / "chart" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (folder / "values.json").write_text(json.dumps(values))
        arguments = ["template", name, "./chart", "--namespace", namespace, "--values", "values.json", "--skip-tests"]
        arguments += ["--skip-schema-validation", "--kube-version", cluster.version]
        arguments += [argument for api in cluster.apis for argument in ("--api-versions", api)]
        arguments += [argument for each in large_numbers(values) for argument in ("--set", each)]
        home = str(folder / "home")
        environment = {"HOME": home, "PATH": "/nowhere", "GOMAXPROCS": "1", "KUBECONFIG": f"{home}/none"}
        names = ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "PLUGINS")
        environment |= {f"HELM_{each}": f"{home}/{each.lower()}" for each in names}
        command = [*_BOUNDED, str(self.program), *arguments]
        done = run_program(command, environment, seconds=_SECONDS, folder=folder)
        if done.status is None:
            raise NotTemplatedError(f"helm took more than {_SECONDS:g} seconds")
        if done.status != 0:
            raise NotTemplatedError(f"helm refuses it: {' '.join(done.last_lines())[-300:]}")
        if len(done.output.encode()) > _MOST_OUTPUT:
            raise NotTemplatedError(f"they have more than {_MOST_OUTPUT} bytes")
        return done.output

"""Charts without releases: helm makes the objects, and they are applied as those of manifests are (`mode: template`).

TEMPLATED-1  What only Helm itself does is refused with its place: hooks, `lookup` and what is in `crds/`. Hooks for
             `helm test` are left out.
TEMPLATED-2  Helm does not ask the cluster. It gets the server's version and APIs as arguments; it also takes those that
             it knows itself for available, and the dry run finds what the server does not have.
TEMPLATED-3  The release has the same name as in the other mode.

Source: Margo application description, Helm charts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Workload, WorkloadKey
from margo_gitops.appliers.helm.charts import chart_content, chart_in, check_signature
from margo_gitops.appliers.helm.program import HelmProgram, chart_values, secret_values
from margo_gitops.appliers.helm.releases import release_name
from margo_gitops.appliers.kubernetes.client import ClusterClient
from margo_gitops.appliers.kubernetes.revisions import Revision
from margo_gitops.documents.charts import ASK, calls, is_template, own_path, read_chart
from margo_gitops.documents.deployment import Artifact
from margo_gitops.documents.kubernetes_objects import KubernetesObject, mapping_at, read_objects, text_at
from margo_gitops.errors import Location, ManifestInvalid, UnreadableDocument
from margo_gitops.values import dataclass

_SECONDS: Final = 60.0
_PLACE: Final = re.compile(r"^---\n# Source: (.+)\n", re.MULTILINE)
_USE_RELEASES: Final = "or let this device use `mode: release` of the applier helm"


@dataclass(eq=False)
class ChartSource:
    """Lets helm make objects of charts.

    Attributes:
        keyring: of the keys that charts must be signed with; None: they need no signature of their own.
    """

    helm: HelmProgram
    client: ClusterClient
    keyring: Path | None = None
    profile_type: str = "helm"
    name: str = "helm"
    what: str = "the chart"

    def artifact(self, workload: Workload) -> Artifact:
        """Return the content with the chart (WorkloadUnsupported: the deployment names no content)."""
        return chart_content(workload)

    def objects(
        self, key: WorkloadKey, revision: Revision, content: Path, secrets: Mapping[str, bytes]
    ) -> Sequence[KubernetesObject]:
        """Return what helm makes of the chart.

        Raises:
            ManifestInvalid: it makes nothing that can be applied, or the chart needs Helm itself (TEMPLATED-1).
            ApplyError: what `HelmProgram.run` raises, and the checks of chart, signature and values.
        """
        component = key.component
        chart = chart_in(content, component, signed=self.keyring is not None)
        if self.keyring:
            check_signature(self.helm, chart, self.keyring, component)
        _refuse_helms_own(chart, component)
        hidden = secret_values(secrets)
        done = self.helm.run(
            "template",
            release_name(key),
            str(chart),
            "--skip-tests",
            "--kube-version",
            text_at(self.client.ask("/version"), "gitVersion"),
            *(word for each in self._apis() for word in ("--api-versions", each)),
            namespace=revision.namespace,
            seconds=_SECONDS,
            values=chart_values(component, revision.values, hidden),
        )
        if done.status != 0:
            raise ManifestInvalid(
                f"helm cannot template the chart of component {component}",
                why=["it did not end in time"] if done.status is None else done.last_lines(hidden),
                remedy="correct the chart or the parameters; `helm template` shows the same",
            )
        objects = read_objects(_files(done.output))
        for each in objects:
            if "helm.sh/hook" in mapping_at(each.body, "metadata", "annotations"):
                raise ManifestInvalid(
                    f"{each.kind} {each.name} is a hook, which only Helm itself runs",
                    where=each.place,
                    remedy=f"make it a Job or an init container, {_USE_RELEASES}",
                )
        return objects

    def _apis(self) -> Sequence[str]:
        found = [(each.api_version, each.kind) for each in self.client.every_resource(all_versions=True)]
        return sorted({version for version, _ in found} | {f"{version}/{kind}" for version, kind in found})


def _refuse_helms_own(chart: Path, component: str) -> None:
    """Refuse a chart with `crds/` or a call of `lookup` in it, or in a chart that it brings along (ManifestInvalid)."""
    try:
        read = read_chart(_sized(chart) if chart.is_dir() else chart.read_bytes(), component)
    except UnreadableDocument as error:
        raise ManifestInvalid(f"the chart of component {component} {error.what}", why=error.why) from error
    for path, text in sorted(read.files.items()) if read else ():
        own = own_path(path)
        if own.startswith("crds/"):
            raise ManifestInvalid(
                "Helm alone installs what is in crds/",
                where=Location(f"{component}/{path}"),
                remedy=f"put the definition into templates/, {_USE_RELEASES}",
            )
        source = text.decode(errors="replace") if is_template(own) else ""
        for at, function in calls(source):
            if function in ASK:
                raise ManifestInvalid(
                    f"{function} finds nothing where a chart is templated",
                    where=Location(f"{component}/{path}", source.count("\n", 0, at) + 1),
                    remedy=f"make it a value, {_USE_RELEASES}",
                )


def _sized(folder: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path.stat().st_size, path.read_bytes


def _files(output: str) -> Iterator[tuple[str, bytes]]:
    """Yield what each template made; a line that begins with three dashes ends any document."""
    before, *parts = _PLACE.split(output)
    if before.strip():
        yield "helm template", before.encode()
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        yield f"{name} (templated)", text.encode()

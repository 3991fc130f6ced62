"""Write ApplicationDeployment documents; what many of them share is written once."""

from __future__ import annotations

from margo_gitops.documents.deployment import ApplicationDeployment, DeployedProfile
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_writer import Prewritten, write_yaml
from margo_gitops.rendering.by_id import ById


class DocumentWriter:
    """Writes the documents of one render."""

    def __init__(self) -> None:
        self._profiles: dict[ById[DeployedProfile], Prewritten] = {}

    def write(self, document: ApplicationDeployment) -> bytes:
        """Return a document's exact bytes.

        Raises:
            UnwritableValue: a parameter holds what no YAML reader could read back.
        """
        spec = document.spec
        body: dict[str, Json] = {
            "applicationId": spec.application_id,
            "deploymentProfile": self._profile(spec.deployment_profile),
        }
        # Always there: one published schema requires it, the other allows it.
        body["parameters"] = {name: write(value) for name, value in spec.parameters.items()}
        body.update(spec.extensions)
        plain: dict[str, Json] = {"id": document.id, "metadata": write(document.metadata), "spec": body}
        return write_yaml(plain)

    def _profile(self, profile: DeployedProfile) -> Prewritten:
        key = ById(profile)
        if key not in self._profiles:
            self._profiles[key] = Prewritten(write(profile))
        return self._profiles[key]

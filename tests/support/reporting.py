"""Reports as the server commits them, made without a server: devices, given by name, that say how they are."""

from __future__ import annotations

import json
from pathlib import Path

import pygit2

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

BEGIN = 1_800_000_000
"""When the first report comes, seconds since the epoch."""


class Reporter:
    """Writes the branch of reports of a state repo."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.branch = ReportBranch(folder)
        self.time = BEGIN

    def deployments(self, client: str) -> list[str]:
        """Return the deployment ids of the client's present manifest."""
        repository = pygit2.Repository(str(self.folder))
        tree = repository.references[device_ref(client)].peel(pygit2.Commit).tree
        manifest = json.loads(repository[tree["manifest.json"].id].data)
        return [each["deploymentId"] for each in manifest["deployments"]]

    def version(self, client: str) -> int:
        """Return the version of the client's present manifest."""
        repository = pygit2.Repository(str(self.folder))
        tree = repository.references[device_ref(client)].peel(pygit2.Commit).tree
        return int(json.loads(repository[tree["manifest.json"].id].data)["manifestVersion"])

    def report(
        self,
        client: str,
        state: str = "installed",
        adopted: int | None = None,
        *,
        error: str | None = None,
        only: int | None = None,
        sender: str | None = None,
    ) -> str | None:
        """Commit a status of each of the client's deployments; one minute later than the last.

        Args:
            client: who reports.
            state: of every deployment.
            adopted: the manifest version; None: the present one.
            error: message of the failure.
            only: index of the one deployment to report on; None: all.
            sender: whom the commit names; None: the client.
        """
        changes: dict[ReportKey, bytes | None] = {}
        ids = self.deployments(client)
        for identifier in ids if only is None else [ids[only]]:
            overall: dict[str, object] = {"state": state}
            if error is not None:
                overall["error"] = {"code": "201", "source": "web", "message": error}
            document = {
                "adoptedManifestVersion": self.version(client) if adopted is None else adopted,
                "components": [{"name": "web", "state": state}],
                "deploymentId": identifier,
                "status": overall,
            }
            changes[ReportKey(client, "status", identifier)] = json.dumps(document, indent=2).encode()
        return self.commit(changes, client if sender is None else sender)

    def commit(self, changes: dict[ReportKey, bytes | None], *senders: str) -> str | None:
        """Commit reports as they are, one minute later than the last; return the newest commit."""
        self.time += 60
        trailers = [("Reported-By", f"{each} (token of {each})") for each in senders]
        return self.branch.commit(changes, "Reports", trailers, self.time).tip

"""The resources that devices write: capabilities and deployment status, each as Margo's page of that name says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.limits import spread
from margo_gitops.server.problems import (
    DEPLOYMENT_NOT_FOUND,
    DEVICE_NOT_FOUND,
    GATEWAY_NOT_FOUND,
    NOT_STORED,
    TOO_MANY,
    RequestRefused,
)
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import Kept, Report, ReportJournal
from margo_gitops.server.reports.reading import Profile, check_scope, read_capabilities, read_status
from margo_gitops.server.requests import read_body
from margo_gitops.server.routing import Call
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.report_branch import ReportKey

_FULL_SECONDS: Final = 3600
_NOT_STORED_SECONDS: Final = 30
_LOG = logging.getLogger("margo_gitops.server")


@dataclass(frozen=True, slots=True)
class ReportResources:
    """Answers the writing requests of an identified client: what is acknowledged is on disk.

    Attributes:
        watch: sees the state, which tells what a client may report on.
        profile: how exactly the contract is followed.
        any_device_id: whether a client may use device ids that do not start with its own id.
        clock: the time, seconds since the epoch.
    """

    watch: StateWatch
    journal: ReportJournal
    commits: ReportCommits
    profile: Profile
    any_device_id: bool
    clock: Callable[[], float]

    async def put_capabilities(self, call: Call) -> Response:
        """Keep a device's capabilities: 201 for the first, 200 for later ones."""
        caller, device = call.caller, call.parameters["deviceId"]
        check_scope(caller.client, device, any_device_id=self.any_device_id)
        content = read_capabilities(await read_body(call.scope, call.receive), device, self.profile)
        # A child of a gateway comes after it (Margo gateways).
        gateway = device.rpartition("/")[0]
        key = ReportKey(caller.client, "capabilities", device)
        return await self._kept(Report(key, content, caller.evidence, int(self.clock()), gateway=gateway))

    async def delete_capabilities(self, call: Call) -> Response:
        """Forget a device's capabilities, and those of its children."""
        caller, device = call.caller, call.parameters["deviceId"]
        check_scope(caller.client, device, any_device_id=self.any_device_id)
        try:
            found = await self.journal.remove(caller.client, device, int(self.clock()), caller.evidence)
        except MargoGitopsError as error:
            raise _not_stored(caller.client, error) from error
        if not found:
            raise RequestRefused(DEVICE_NOT_FOUND)
        self.commits.changed()
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def post_status(self, call: Call) -> Response:
        """Keep the status of a deployment: 201 for the first, 200 for later ones."""
        caller, deployment_id = call.caller, call.parameters["deploymentId"].lower()
        report = read_status(await read_body(call.scope, call.receive), deployment_id, self.profile)
        if report.device:
            check_scope(caller.client, report.device, any_device_id=self.any_device_id)
        key = ReportKey(caller.client, "status", deployment_id)
        try:
            known = self.watch.look().deployed_lately(caller.client, deployment_id) or await self.journal.has(key)
        except MargoGitopsError as error:
            raise _not_stored(caller.client, error) from error
        if not known:
            raise RequestRefused(DEPLOYMENT_NOT_FOUND)
        return await self._kept(Report(key, report.content, caller.evidence, int(self.clock()), report.adopted))

    async def _kept(self, report: Report) -> Response:
        client = report.key.client
        try:
            kept: Kept = await self.journal.keep(report)
        except MargoGitopsError as error:
            raise _not_stored(client, error) from error
        if kept == "no-gateway":
            raise RequestRefused(GATEWAY_NOT_FOUND)
        if kept == "full":
            raise RequestRefused(TOO_MANY.because("This device reports on too many subjects.").later(_FULL_SECONDS))
        if kept != "unchanged":
            self.commits.changed()
        return Response(status_code=201 if kept == "created" else 200, headers={"Cache-Control": "no-store"})


def _not_stored(client: str, error: MargoGitopsError) -> RequestRefused:
    _LOG.error("a report of %s was not taken: %s", client, error)
    return RequestRefused(NOT_STORED.later(spread(client, _NOT_STORED_SECONDS)))

"""The resources that devices write: capabilities and deployment status, each as Margo's page of that name says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.limits import RateLimit, spread
from margo_gitops.server.mirror import CatchUp
from margo_gitops.server.problems import (
    DEPLOYMENT_NOT_FOUND,
    DEVICE_NOT_FOUND,
    GATEWAY_NOT_FOUND,
    NOT_STORED,
    STATE_UNUSABLE,
    TOO_MANY,
    RequestRefused,
)
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.server.reports.journal import Kept, Report, ReportJournal
from margo_gitops.server.reports.reading import (
    Profile,
    device_in_fleet,
    read_capabilities,
    read_receipts,
    read_status,
)
from margo_gitops.server.requests import read_body
from margo_gitops.server.routing import Call
from margo_gitops.server.state_watch import StateWatch
from margo_gitops.state_repo.report_branch import LATEST, ReportKey
from margo_gitops.values import dataclass

_FULL_SECONDS: Final = 3600
_NOT_STORED_SECONDS: Final = 30
_STATUS_SECONDS: Final = 30 * 86_400
"""A status of a deployment that its device no longer has is kept for this long."""
_COLLECT_SECONDS: Final = 86_400
_LOG = logging.getLogger("margo_gitops.server")


@dataclass(frozen=True, slots=True)
class ReportResources:
    """Answers the writing requests of an identified client: what is acknowledged is on disk.

    Attributes:
        watch: sees the state, which tells what a client may report on.
        profile: how exactly the contract is followed.
        any_device_id: whether a client may use device ids that do not start with its own id.
        clock: the time, seconds since the epoch.
        bytes_of_history: how many bytes of changed reports a client may send in a time.
        free: whether the disk has room for reports.
        catch_up: as `StateMirror.catch_up`; None: the state is always the newest.
    """

    watch: StateWatch
    journal: ReportJournal
    commits: ReportCommits
    profile: Profile
    any_device_id: bool
    clock: Callable[[], float]
    bytes_of_history: RateLimit
    free: Callable[[], bool]
    catch_up: CatchUp | None = None

    async def put_capabilities(self, call: Call) -> Response:
        """Keep a device's capabilities: 201 for the first, 200 for later ones."""
        caller, called = call.caller, call.parameters["deviceId"]
        device = self._named(caller.client, called)
        content = read_capabilities(await read_body(call.scope, call.receive), device, self.profile, called)
        # A child of a gateway comes after it (Margo gateways).
        gateway = device.rpartition("/")[0]
        key = ReportKey(caller.client, "capabilities", device)
        return await self._kept(Report(key, content, caller.evidence, int(self.clock()), gateway=gateway))

    async def delete_capabilities(self, call: Call) -> Response:
        """Forget a device's capabilities, and those of its children."""
        caller = call.caller
        device = self._named(caller.client, call.parameters["deviceId"])
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
        body = await read_body(call.scope, call.receive)
        report = read_status(body, deployment_id, self.profile, lambda device: self._named(caller.client, device))
        key = ReportKey(caller.client, "status", deployment_id)
        known = await self._is_known(key)
        if not known and self.catch_up is not None:
            if not await self.catch_up():
                raise RequestRefused(STATE_UNUSABLE.later(_spread(caller.client)))
            known = await self._is_known(key)
        if not known:
            raise RequestRefused(DEPLOYMENT_NOT_FOUND)
        return await self._kept(Report(key, report.content, caller.evidence, int(self.clock()), report.adopted))

    async def post_receipts(self, call: Call) -> Response:
        """Keep what a device signed of what ran (D-38): 201 for the first, 200 for later ones."""
        caller = call.caller
        body = await read_body(call.scope, call.receive)
        content = read_receipts(body, {caller.client, self._alias(caller.client) or caller.client})
        key = ReportKey(caller.client, "receipts", LATEST)
        return await self._kept(Report(key, content, caller.evidence, int(self.clock())))

    async def _is_known(self, status: ReportKey) -> bool:
        try:
            return self.watch.look().deployed_lately(status.client, status.name) or await self.journal.has(status)
        except MargoGitopsError as error:
            raise _not_stored(status.client, error) from error

    def _named(self, client: str, device: str) -> str:
        alias = self._alias(client)
        return device_in_fleet(client, device, alias=alias, any_device_id=self.any_device_id)

    def _alias(self, client: str) -> str | None:
        try:
            return self.watch.look().alias(client)
        except MargoGitopsError as error:
            _LOG.error("the aliases of devices cannot be read: %s", error)
            raise RequestRefused(STATE_UNUSABLE.later(_spread(client))) from error

    async def collect(self, client: str | None = None) -> None:
        """Forget old statuses of deployments that their client does not have any more.

        Args:
            client: whose; None: of all.

        Raises:
            MargoGitopsError: the disk, or the state repo, refuses.
        """
        old = await self.journal.old_statuses(int(self.clock()) - _STATUS_SECONDS, client)
        view = self.watch.look()

        def gone() -> list[ReportKey]:
            return [key for key in old if not view.deployed_lately(key.client, key.name)]

        found = await asyncio.to_thread(gone) if old else []
        if found:
            await self.journal.forget(found)
            self.commits.changed()

    async def keep_collecting(self) -> None:
        """Collect now and each day."""
        while True:
            try:
                await self.collect()
            except MargoGitopsError as error:
                _LOG.error("old reports cannot be collected: %s", error)
            await asyncio.sleep(_COLLECT_SECONDS)

    async def _kept(self, report: Report) -> Response:
        client = report.key.client
        wait = self.bytes_of_history.wait(client)
        if wait is not None:
            detail = "The reports of this device changed too much in a short time (reports.deviceBytesPerHour)."
            raise RequestRefused(TOO_MANY.because(detail).later(wait))
        if not self.free():
            raise RequestRefused(NOT_STORED.because("The server's disk is almost full.").later(_spread(client)))
        try:
            kept: Kept = await self.journal.keep(report)
            if kept == "full":
                await self.collect(client)
                kept = await self.journal.keep(report)
        except MargoGitopsError as error:
            raise _not_stored(client, error) from error
        if kept == "no-gateway":
            raise RequestRefused(GATEWAY_NOT_FOUND)
        if kept == "full":
            detail = "This device reports too much (reports.perDevice, reports.deviceBytes)."
            raise RequestRefused(TOO_MANY.because(detail).later(_FULL_SECONDS))
        if kept == "all-full":
            detail = "All devices together report too much (reports.totalBytes)."
            raise RequestRefused(NOT_STORED.because(detail).later(_spread(client)))
        if kept != "unchanged":
            self.bytes_of_history.spend(client, len(report.content))
            self.commits.changed()
        return Response(status_code=201 if kept == "created" else 200, headers={"Cache-Control": "no-store"})


def _not_stored(client: str, error: MargoGitopsError) -> RequestRefused:
    _LOG.error("a report of %s was not taken: %s", client, error)
    return RequestRefused(NOT_STORED.later(_spread(client)))


def _spread(client: str) -> int:
    return spread(client, _NOT_STORED_SECONDS)

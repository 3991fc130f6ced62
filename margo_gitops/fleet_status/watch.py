"""See a status change: a few `stat` calls a second for a state repo on this machine, or a fetch now and then."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Final

from margo_gitops.errors import MargoGitopsError
from margo_gitops.fleet_status.reading import StatusReader, StatusRequest
from margo_gitops.fleet_status.status import FleetStatus
from margo_gitops.operations.fleet_input import opened_state
from margo_gitops.state_repo.packed_refs import RefValues
from margo_gitops.state_repo.refs import RefWatch
from margo_gitops.values import dataclass

LOOK_SECONDS: Final = 0.3
"""Between two looks at a state repo on this machine."""

FETCH_SECONDS: Final = 15.0
"""Between two fetches from a remote one."""


@dataclass(slots=True)
class StatusWatch:
    """Yields the status now and after every change.

    Attributes:
        stop: ends the watch when set.
    """

    request: StatusRequest
    stop: Event

    def changes(self) -> Iterator[FleetStatus | MargoGitopsError]:
        """Yield a status, or the error that prevents it, each time that another one must be shown.

        Raises:
            MargoGitopsError: there is no state repo to begin with.
        """
        reader: StatusReader | None = None
        watches: list[RefWatch] = []
        before: list[RefValues] | None = None
        shown: FleetStatus | str | None = None
        while True:
            pause = LOOK_SECONDS
            try:
                if reader is None or reader.is_fetched:
                    with opened_state(self.request) as (objects, location):
                        reader = reader or StatusReader(objects, location, self.request)
                        watches = watches or [
                            RefWatch(each.folder) for each in (objects, objects.reports) if each is not None
                        ]
                    pause = FETCH_SECONDS if reader.is_fetched else LOOK_SECONDS
                now = [each.read() for each in watches]
                if now != before:
                    status = reader.read(now[0])
                    before = now
                    if status != shown:
                        shown = status
                        yield status
            except MargoGitopsError as error:
                if reader is None:
                    raise
                pause = FETCH_SECONDS if reader.is_fetched else LOOK_SECONDS
                if str(error) != shown:
                    shown = str(error)
                    yield error
            if self.stop.wait(pause):
                return

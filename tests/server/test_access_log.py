"""The log of requests: who asked for what, how it went, and why it was refused."""

from __future__ import annotations

import re

import pytest
from server.serving import ServedFleet, capabilities, until

from margo_gitops.server.access_log import AccessLog, Logged
from margo_gitops.server.identity.callers import SEEN, Seen

MANIFEST = "/api/v1/deployments"


def lines(fleet: ServedFleet) -> list[str]:
    return re.findall(r"INFO (request .*)", fleet.log.read_text())


def last(fleet: ServedFleet, part: str) -> str:
    """Return the last line with a part in it; it is written after the answer."""
    return str(until(lambda: next((line for line in reversed(lines(fleet)) if part in line), None)))


def test_every_refusal_has_its_reason(fleet: ServedFleet) -> None:
    expired = fleet.token("idle-01")
    fleet.start()
    with fleet.client() as client:
        assert client.get(MANIFEST).status_code == 403
        assert 'reason="no token"' in last(fleet, "status=403")
        client.get(MANIFEST, headers={"Authorization": "Bearer " + "x" * 40})
        assert "a token that is not in the list" in last(fleet, "not in the list")
        tokens = fleet.folder / "device-tokens"
        tokens.write_text(f"{tokens.read_text().rstrip()} until=2020-01-01T00:00:00Z\n")
        client.get(MANIFEST, headers={"Authorization": f"Bearer {expired}"})
        assert "a token of idle-01 that has ended" in last(fleet, "ended")
    assert expired not in fleet.log.read_text()
    with fleet.client("press-01") as client:
        assert client.get(MANIFEST).status_code == 200
        client.get("/api/v1/nothing\u202e%1b")
        line = last(fleet, "nothing")
        assert re.search(r'client=press-01 method=GET route="/api/v1/nothing\S+ status=404 ms=\d+ bytes=\d+ ', line)
        client.put("/api/v1/capabilities/press-01", json=capabilities("other"))
        line = last(fleet, "status=422")
        assert "client=press-01 method=PUT route=/api/v1/capabilities/{deviceId} status=422" in line
        assert "properties.id must be press-01" in line
    assert not [line for line in lines(fleet) if "status=200" in line]


def test_all_requests_or_none_are_logged(fleet: ServedFleet) -> None:
    fleet.start(log="all")
    with fleet.client("press-01") as client:
        size = len(client.get(MANIFEST, headers={"Accept-Encoding": "identity"}).content)
    assert re.search(
        rf"client=press-01 method=GET route={MANIFEST} status=200 ms=\d+ bytes={size}$", last(fleet, "=200")
    )
    fleet.stop()
    fleet.start(log="off")
    with fleet.client() as client:
        assert client.get(MANIFEST).status_code == 403
    fleet.stop()
    assert lines(fleet) == []


@pytest.mark.parametrize("logged", ["refusals", "all"])
def test_a_stranger_cannot_fill_the_disk_with_refusals(logged: Logged, caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(logged)
    scope = {"method": "GET", "raw_path": b"/x", "client": ("10.0.0.9", 1)}
    with caplog.at_level("INFO", "margo_gitops.server"):
        for _ in range(3000):
            log.answered(dict(scope), 403, 1, 0.0)
        log.answered({**scope, SEEN: Seen("press-01")}, 404, 1, 0.0)
    assert 100 <= len(caplog.messages) < 200
    assert f"hidden={3001 - len(caplog.messages)}" in caplog.messages[-1]

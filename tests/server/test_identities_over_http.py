"""The ways to say who one is, against the running server."""

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
from hypothesis import given
from hypothesis import strategies as st
from server.certificates import Authority, spiffe_id
from server.serving import ServedFleet
from support.properties import times

MANIFEST = "/api/v1/deployments"


def test_a_proxy_forwards_certificates(fleet: ServedFleet) -> None:
    (fleet.folder / "accepted").write_text(f"{spiffe_id('press-01')}\n")
    fleet.start(identity={"clientCert": {"proxies": ["127.0.0.1"], "accepted": "accepted"}})
    forwarded = f":{base64.b64encode(Authority().client(spiffe_id('press-01')).der).decode()}:"
    with fleet.client() as proxy:
        assert proxy.get(MANIFEST, headers={"Client-Cert": forwarded}).json() == fleet.manifest("press-01")
        assert proxy.get(MANIFEST).status_code == 403
        twice = [("Client-Cert", forwarded), ("Client-Cert", forwarded)]
        assert proxy.get(MANIFEST, headers=twice).status_code == 403
        (fleet.folder / "accepted").write_text("# nobody\n")
        assert proxy.get(MANIFEST, headers={"Client-Cert": forwarded}).status_code == 403


def test_nobody_becomes_a_proxy_by_a_header(fleet: ServedFleet) -> None:
    (fleet.folder / "accepted").write_text(f"{spiffe_id('press-01')}\n")
    fleet.start(identity={"clientCert": {"proxies": ["192.0.2.1"], "accepted": "accepted"}})
    forwarded = f":{base64.b64encode(Authority().client(spiffe_id('press-01')).der).decode()}:"
    headers = {"Client-Cert": forwarded, "X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
    with fleet.client() as client:
        assert client.get(MANIFEST, headers=headers).status_code == 403


def test_nobody_is_asked_where_that_is_asked_for(fleet: ServedFleet) -> None:
    fleet.start(identity={"none": {"device": "press-01"}})
    with fleet.client() as client:
        assert client.get(MANIFEST).json() == fleet.manifest("press-01")
        other = client.get(MANIFEST, headers={"Margo-Device": "press-02"})
        assert other.json() == fleet.manifest("press-02")
        assert client.get(MANIFEST, headers={"Host": "rebound.example"}).status_code == 403


def test_a_token_is_revoked_and_rotated_while_the_connection_lives(fleet: ServedFleet) -> None:
    fleet.start()
    with fleet.client("press-01") as client:
        assert client.get(MANIFEST).status_code == 200
        fleet.token("press-01")
        assert client.get(MANIFEST).status_code == 403
    with fleet.client("press-01") as client:
        assert client.get(MANIFEST).status_code == 200


def test_many_devices_at_once_each_get_their_own(fleet: ServedFleet) -> None:
    devices = {f"cell-{number}": {"app": b"cell: %d\n" % number} for number in range(20)}
    fleet.render(devices)
    for device in devices:
        fleet.token(device)
    fleet.start()

    def read(device: str) -> bool:
        with fleet.client(device) as client:
            for _ in range(20):
                manifest = client.get(MANIFEST).json()
                content = client.get(manifest["deployments"][0]["url"]).content
                if content != devices[device]["app"]:
                    return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(read, devices))


HEADER = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)


@times(3)
@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80),
    accept=HEADER,
    held=HEADER,
    prefer=HEADER,
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    body=st.binary(max_size=200),
)
def test_no_request_is_a_defect(
    reading: ServedFleet, path: str, accept: str, held: str, prefer: str, method: str, body: bytes
) -> None:
    for target in (f"/api/v1/{path}", f"/{path}", "/api/v1/deployments", "/api/v1/capabilities/press-01"):
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Authorization: Bearer {reading.tokens['press-01']}",
            f"Accept: {accept}",
            f"If-None-Match: {held}",
            f"Prefer: {prefer}",
            f"Content-Length: {len(body)}",
        ]
        answer = reading.raw("\r\n".join([*lines, "", ""]).encode() + body)
        assert answer.startswith(b"HTTP/1.1 ")
        assert not answer.startswith(b"HTTP/1.1 5"), (target, answer)


def test_a_path_beyond_all_bounds_is_refused(reading: ServedFleet) -> None:
    with reading.client("press-01") as client:
        answer: httpx.Response = client.get("/api/v1/capabilities/" + "a" * 20_000)
    assert answer.status_code in {400, 404, 414}

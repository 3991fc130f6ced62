"""Who calls: tokens, forwarded certificates, nobody."""

import base64
import time
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from server.certificates import DAY, Authority, Issued, spiffe_id
from server.serving import hashed

from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import Caller, NobodyAsked, seen
from margo_gitops.server.identity.certificates import ProxiedCertificate, read_accepted_clients, read_client_id
from margo_gitops.server.identity.tokens import BearerTokens

TOKEN, OTHER = "a" * 40, "b" * 40
PROXY = "10.0.0.5"


def scope(*headers: tuple[str, str], client: str = PROXY) -> dict:
    return {
        "type": "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": (client, 4711),
    }


def bearer(token: str) -> dict:
    return scope(("Authorization", f"Bearer {token}"))


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def tokens_file(folder: Path, *lines: str) -> Path:
    file = folder / "tokens"
    file.write_text("\n".join([*lines, ""]))
    return file


# Tokens


def test_a_token_is_its_device(tmp_path: Path) -> None:
    tokens = BearerTokens(tokens_file(tmp_path, "# tokens", f"press-01 {hashed(TOKEN)}  # first"), time.time)
    assert tokens(bearer(TOKEN)) == Caller("press-01", "token")
    assert tokens(scope(("Authorization", f"bearer  {TOKEN}"))) == Caller("press-01", "token")
    assert tokens(bearer(OTHER)) is None
    assert tokens(scope()) is None


def test_two_tokens_overlap_until_the_old_one_ends(tmp_path: Path) -> None:
    clock = Clock(1_795_000_000)
    file = tokens_file(tmp_path, f"press-01 {hashed(TOKEN)} until=2026-11-30T00:00:00Z", f"press-01 {hashed(OTHER)}")
    tokens = BearerTokens(file, clock)
    assert tokens(bearer(TOKEN)) == tokens(bearer(OTHER)) == Caller("press-01", "token")
    clock.now = 1_796_000_000
    assert tokens(bearer(TOKEN)) is None
    assert tokens(bearer(OTHER)) == Caller("press-01", "token")


def test_a_removed_line_revokes_its_token_with_the_next_request(tmp_path: Path) -> None:
    file = tokens_file(tmp_path, f"press-01 {hashed(TOKEN)}", f"press-02 {hashed(OTHER)}")
    tokens = BearerTokens(file, time.time)
    for _ in range(20):
        assert tokens(bearer(TOKEN))
        tokens_file(tmp_path, f"press-02 {hashed(OTHER)}")
        assert tokens(bearer(TOKEN)) is None
        tokens_file(tmp_path, f"press-01 {hashed(TOKEN)}", f"press-02 {hashed(OTHER)}")
    file.unlink()
    assert tokens(bearer(OTHER)) is None


def test_a_mistake_in_the_file_changes_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = BearerTokens(tokens_file(tmp_path, f"press-01 {hashed(TOKEN)}"), time.time)
    tokens_file(tmp_path, f"press-01 {TOKEN}")
    for _ in range(5):
        assert tokens(bearer(TOKEN)) == Caller("press-01", "token")
    assert len(caplog.records) == 1
    assert "not a sha256 digest" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "press-01",
        "press-01 sha256:abc",
        f"press-01 {hashed(TOKEN).upper()}",
        f"gw/press-01 {hashed(TOKEN)}",
        f".. {hashed(TOKEN)}",
        f"{'P' * 100} {hashed(TOKEN)}",
        f"press-01 {hashed(TOKEN)} until=tomorrow",
        f"press-01 {hashed(TOKEN)} until=2026-11-30T00:00:00",
        f"press-01 {hashed(TOKEN)} since=2026-11-30T00:00:00Z",
        f"press-01 {hashed(TOKEN)}\npress-02 {hashed(TOKEN)}",
    ],
)
def test_a_line_that_is_none_is_named_without_its_secrets(tmp_path: Path, line: str) -> None:
    with pytest.raises(ServerMisconfigured) as caught:
        BearerTokens(tokens_file(tmp_path, line), time.time)
    assert caught.value.where is not None
    assert caught.value.where.line == line.count("\n") + 1
    assert hashed(TOKEN)[7:] not in str(caught.value)


def test_a_short_token_is_never_accepted(tmp_path: Path) -> None:
    tokens = BearerTokens(tokens_file(tmp_path, f"press-01 {hashed('guess')}"), time.time)
    scope = bearer("guess")
    assert tokens(scope) is None
    assert seen(scope).reason == "a token of press-01 with fewer than 32 characters"


# Forwarded certificates (RFC 9440)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def forwarded(issued: Issued, client: str = PROXY) -> dict:
    return scope(("Client-Cert", f":{base64.b64encode(issued.der).decode()}:"), client=client)


def proxied(folder: Path, *accepted: str, clock: Clock | None = None) -> ProxiedCertificate:
    file = folder / "accepted"
    file.write_text("\n".join([*accepted, ""]))
    return ProxiedCertificate([ip_network("10.0.0.0/29")], file, clock or time.time)


def test_a_forwarded_certificate_of_an_accepted_client_is_the_client(tmp_path: Path, authority: Authority) -> None:
    identify = proxied(tmp_path, spiffe_id("press-01"))
    issued = authority.client(spiffe_id("press-01"))
    assert identify(forwarded(issued)) == Caller("press-01", spiffe_id("press-01"))
    assert identify(forwarded(issued, client="::ffff:10.0.0.5")) == Caller("press-01", spiffe_id("press-01"))


@pytest.mark.parametrize("address", ["10.0.0.9", "127.0.0.1", "192.0.2.1", ""])
def test_the_header_means_nothing_from_anybody_but_the_proxies(
    tmp_path: Path, authority: Authority, address: str
) -> None:
    identify = proxied(tmp_path, spiffe_id("press-01"))
    assert identify(forwarded(authority.client(spiffe_id("press-01")), client=address)) is None


def test_a_client_is_accepted_by_name_or_by_namespace_and_revoked_at_once(tmp_path: Path, authority: Authority) -> None:
    identify = proxied(tmp_path, spiffe_id("press-02"))
    request = forwarded(authority.client(spiffe_id("press-01")))
    assert identify(request) is None
    (tmp_path / "accepted").write_text(f"{spiffe_id('*')}\n")
    assert identify(request)
    (tmp_path / "accepted").write_text(f"{spiffe_id('press-02')}\n")
    assert identify(request) is None


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [spiffe_id("press-01"), spiffe_id("press-02")],
        [spiffe_id("press-01", wfm="other")],
        [spiffe_id("press-01", domain="other.example")],
        ["spiffe://plant.example/margo/wfm/main"],
        [f"{spiffe_id('press-01')}/x"],
        [spiffe_id("..")],
        [spiffe_id("*")],
        ["https://plant.example/margo/wfm/main/client/press-01"],
        [spiffe_id("press%2D01")],
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_client_is_nobodys(
    tmp_path: Path, authority: Authority, uris: list[str]
) -> None:
    assert proxied(tmp_path, spiffe_id("*"))(forwarded(authority.client(*uris))) is None


def test_authorities_and_certificates_out_of_their_time_are_nobodys(tmp_path: Path, authority: Authority) -> None:
    identify = proxied(tmp_path, spiffe_id("*"))
    name = spiffe_id("press-01")
    for wrong in (
        authority.client(name, ca=True),
        authority.client(name, usage={"key_cert_sign": True}),
        authority.client(name, usage={"crl_sign": True}),
        authority.client(name, begins=-2 * DAY, ends=-DAY),
        authority.client(name, begins=DAY, ends=2 * DAY),
    ):
        assert identify(forwarded(wrong)) is None


def test_a_certificate_that_ends_while_the_connection_lives_is_refused_from_then_on(
    tmp_path: Path, authority: Authority
) -> None:
    clock = Clock(time.time())
    identify = proxied(tmp_path, spiffe_id("*"), clock=clock)
    request = forwarded(authority.client(spiffe_id("press-01"), ends=timedelta(hours=1)))
    assert identify(request)
    clock.now += 3700
    assert identify(request) is None


@pytest.mark.parametrize(
    "value", ["", ":", "::", ":AAAA:", "AAAA", ":!!!!:", ":AAA:", ":AAAA:, :AAAA:", f":{'A' * 40_000}:"]
)
def test_what_is_no_certificate_is_nobodys(tmp_path: Path, value: str) -> None:
    assert proxied(tmp_path, spiffe_id("*"))(scope(("Client-Cert", value))) is None


def test_two_headers_are_nobodys(tmp_path: Path, authority: Authority) -> None:
    request = forwarded(authority.client(spiffe_id("press-01")))
    request["headers"] *= 2
    assert proxied(tmp_path, spiffe_id("*"))(request) is None


@pytest.mark.parametrize(
    "text",
    ["press-01", "spiffe://plant.example/x", spiffe_id("a/b"), spiffe_id(""), f"{spiffe_id('a')} {spiffe_id('b')}"],
)
def test_a_policy_line_that_is_no_client_is_named(text: str) -> None:
    with pytest.raises(ServerMisconfigured) as caught:
        read_accepted_clients(f"# clients\n{text}\n", Path("accepted"))
    assert "accepted:2" in str(caught.value)


def test_two_clients_of_one_name_cannot_be_accepted() -> None:
    with pytest.raises(ServerMisconfigured, match="another WFM"):
        read_accepted_clients(f"{spiffe_id('a')}\n{spiffe_id('a', wfm='b')}\n", Path("accepted"))
    assert str(read_client_id(spiffe_id("a"))) == spiffe_id("a")


# Nobody asked


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"])
def test_on_this_machine_a_caller_is_who_it_says(host: str) -> None:
    request = scope(("Host", host), ("Margo-Device", "press-01"), client="127.0.0.1")
    assert NobodyAsked(None)(request) == Caller("press-01", "none")
    assert NobodyAsked("press-02")(scope(("Host", host), client="::1")) == Caller("press-02", "none")
    assert NobodyAsked(None)(scope(("Host", host), client="127.0.0.1")) is None


@pytest.mark.parametrize(
    ("host", "client", "device"),
    [
        ("evil.example", "127.0.0.1", "press-01"),
        ("127.0.0.1.evil.example:80", "127.0.0.1", "press-01"),
        ("localhost", "192.0.2.1", "press-01"),
        ("localhost", "127.0.0.1", "gw/press-01"),
        ("localhost", "127.0.0.1", "../x"),
    ],
)
def test_from_elsewhere_and_for_web_pages_of_elsewhere_nobody_is_known(host: str, client: str, device: str) -> None:
    assert NobodyAsked("press-02")(scope(("Host", host), ("Margo-Device", device), client=client)) is None

"""The settings of a git source: what cannot work is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from margo_gitops.errors import ExitCode, SourceMisconfigured
from margo_gitops.transport import GitSource

URL = "https://git.example.com/fleet/state.git"


def test_a_device_reads_its_own_branch() -> None:
    assert GitSource(URL, device="gw-1/Press.07").ref_name == b"refs/heads/devices/gw-1_2f_50ress.07"


def test_a_ref_can_be_named_instead() -> None:
    assert GitSource(URL, ref="refs/heads/fleet").ref_name == b"refs/heads/fleet"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@git.example.com/state.git",
        "https://secret@git.example.com/state.git",
        "ssh://git:secret@git.example.com/state.git",
        "https://:secret@git.example.com/state.git",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SourceMisconfigured, match="holds credentials") as caught:
        GitSource(url, device="press-07")
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    "url",
    [
        "",
        "state.git",
        "/srv/state.git",
        "git@example.com:state.git",
        "git://example.com/state.git",
        "ftp://example.com/state.git",
        "https://",
        "https://example.com",
        "https://example.com/",
        "https:///state.git",
        "https://example.com:0/state.git",
        "https://example.com:99999/state.git",
        "https://example.com:x/state.git",
        "https://example.com/state.git?secret=1",
        "https://example.com/state.git#secret",
        "https://example.com/st ate.git",
        "https://example.com/state.git\r\nX: y",
        "https://exämple.com/state.git",
        "https://[::1/state.git",
        "file://other/srv/state.git",
        "file://",
        "ssh://-oProxyCommand=id/state.git",
        "ssh://-l@example.com/state.git",
        "ssh://a;b@example.com/state.git",
    ],
)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(SourceMisconfigured):
        GitSource(url, device="press-07")


def test_a_blank_in_a_url_is_refused_with_what_to_write() -> None:
    with pytest.raises(SourceMisconfigured) as caught:
        GitSource("file:///srv/my fleet/state.git", device="press-07")
    assert "a blank is written %20" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"device": "press-07", "ref": "refs/heads/fleet"},
        {"device": "no device"},
        {"device": ""},
        {"ref": "main"},
        {"ref": "refs/heads/a b"},
        {"ref": "refs/heads/a..b"},
        {"ref": "refs/heads/a\n"},
        {"ref": ""},
    ],
)
def test_exactly_one_device_or_ref_is_needed(settings: dict[str, str]) -> None:
    with pytest.raises(SourceMisconfigured):
        GitSource(URL, **settings)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.8.8.8"])
def test_a_token_may_travel_plain_over_the_loopback(host: str) -> None:
    GitSource(f"http://{host}:8080/state.git", device="press-07", token_file=Path("token"))


def test_a_token_may_not_travel_plain_elsewhere_unless_the_settings_say_so() -> None:
    for host in ("10.0.0.1", "localhost.example.com", "127.0.0.1.example.com"):
        url = f"http://{host}/state.git"
        GitSource(url, device="press-07")
        with pytest.raises(SourceMisconfigured, match="unencrypted"):
            GitSource(url, device="press-07", token_variable="TOKEN")
        GitSource(url, device="press-07", token_variable="TOKEN", allow_plain_token=True)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (URL, {"token_file": Path("t"), "token_variable": "T"}),
        (URL, {"token_variable": "the token itself"}),
        (URL, {"username": "device"}),
        (URL, {"username": "a:b", "token_variable": "T"}),
        (URL, {"username": "a\nb", "token_variable": "T"}),
        (URL, {"client_key": Path("k")}),
        (URL, {"ssh_identity": Path("k")}),
        (URL, {"ssh_known_hosts": Path("k")}),
        (URL, {"read_seconds": 0}),
        ("http://example.com/state.git", {"ca_file": Path("c")}),
        ("http://example.com/state.git", {"client_certificate": Path("c")}),
        ("ssh://example.com/state.git", {"token_variable": "T"}),
        ("ssh://example.com/state.git", {"ca_file": Path("c")}),
        ("file:///srv/state.git", {"token_file": Path("t")}),
        ("file:///srv/state.git", {"ssh_identity": Path("k")}),
    ],
)
def test_settings_that_contradict_each_other_are_refused(url: str, settings: dict[str, object]) -> None:
    with pytest.raises(SourceMisconfigured) as caught:
        GitSource(url, device="press-07", **settings)
    assert caught.value.remedy
    assert "token itself" not in str(caught.value.what)

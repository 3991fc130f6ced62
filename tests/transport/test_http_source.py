"""The settings of an HTTP source: checked when made, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from margo_gitops.errors import SourceMisconfigured
from margo_gitops.transport.http.source import HttpSource


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://wfm.example.com", ""),
        ("https://wfm.example.com/", ""),
        ("https://wfm.example.com:8443/v1alpha2/margo/", "/v1alpha2/margo"),
        ("http://127.0.0.1:8080/gw_2fpress-07", "/gw_2fpress-07"),
    ],
)
def test_the_path_of_the_url_is_the_prefix_of_every_request(url: str, prefix: str) -> None:
    assert HttpSource(url).prefix == prefix


@pytest.mark.parametrize(
    ("url", "settings", "hint"),
    [
        ("ftp://wfm.example.com", {}, "none of the kinds"),
        ("file:///srv/margo", {}, "none of the kinds"),
        ("https://user:hunter2@wfm.example.com", {}, "credentials"),
        ("https://", {}, "names no host"),
        ("https://wfm.example.com/?a=b", {}, "a query"),
        ("https://wfm.example.com//margo", {}, "no path may hold"),
        ("https://wfm.example.com/<margo>", {}, "no path may hold"),
        ("https://wfm.example.com/margo\r\nX: y", {}, "no URL may hold"),
        ("http://wfm.example.com", {"token_file": Path("token")}, "unencrypted"),
        ("http://wfm.example.com", {"ca_file": Path("ca.pem")}, "ca_file cannot be used"),
        ("http://wfm.example.com", {"server_spiffe_id": "spiffe://a/b"}, "server_spiffe_id cannot be used"),
        ("https://wfm.example.com", {"client_key": Path("key.pem")}, "no client certificate"),
        ("https://wfm.example.com", {"read_seconds": 0}, "not positive"),
    ],
)
def test_what_cannot_work_is_refused_and_no_secret_is_shown(url: str, settings: dict[str, object], hint: str) -> None:
    with pytest.raises(SourceMisconfigured, match=hint) as caught:
        HttpSource(url, **settings)  # type: ignore[arg-type]  # a mistake of the caller, as a configuration makes it
    assert "hunter2" not in str(caught.value)

"""Docker's credential files and helpers (LOGIN-1 to LOGIN-3)."""

import json
import os
import stat

import pytest

from margo_gitops.errors import RegistryCredentialsUnusable
from margo_gitops.registry.credentials import (
    HostCredentials,
    find_credentials,
    store_credentials,
    usual_credentials_file,
)

HOST = "registry.example.com:5000"
ADA = HostCredentials("ada", "hunter2:with a colon")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "docker" / "config.json"


def test_what_is_stored_is_found_for_that_host_alone_and_the_rest_stays(file):
    file.parent.mkdir()
    other = {"auths": {"other.example": {"auth": "YTpi"}}, "proxies": {"default": {}}}
    file.write_text(json.dumps(other))
    store_credentials(file, HOST, ADA)
    assert find_credentials(file, HOST) == ADA
    assert find_credentials(file, "registry.example.com") is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store_credentials(file, HOST, None)
    assert json.loads(file.read_text()) == other


def test_a_file_that_is_not_there_has_no_credentials_and_is_made(file):
    assert find_credentials(file, HOST) is None
    store_credentials(file, HOST, ADA)
    assert find_credentials(file, HOST) == ADA


@pytest.mark.parametrize(
    ("auths", "found"),
    [
        ({"https://registry.example.com:5000/v1/": {"auth": "YTpi"}}, HostCredentials("a", "b")),
        ({HOST: {"username": "a", "password": "b"}}, HostCredentials("a", "b")),
        ({HOST: {"identitytoken": "t"}}, HostCredentials("", "t")),
        ({HOST: {}}, None),
    ],
)
def test_entries_of_other_programs_are_read(file, auths, found):
    file.parent.mkdir()
    file.write_text(json.dumps({"auths": auths}))
    assert find_credentials(file, HOST) == found


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"auths": {"registry.example.com:5000": {"auth": "aHVudGVyMg=="}}}', '{"auths": []}']
)
def test_a_file_of_another_form_is_refused_without_its_content(file, content):
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(RegistryCredentialsUnusable) as refused:
        find_credentials(file, HOST)
    assert "hunter2" not in str(refused.value)
    assert "aHVu" not in str(refused.value)


def test_a_helper_gets_the_secret_by_its_standard_input(file, tmp_path, monkeypatch):
    helper = tmp_path / "docker-credential-tests"
    helper.write_text(
        f"#!/bin/sh\ncase $1 in store) cat > {tmp_path}/kept;; erase) rm {tmp_path}/kept;;\n"
        f"get) cat {tmp_path}/kept 2>/dev/null || {{ echo credentials not found; exit 1; }};;\n"
        "esac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file.parent.mkdir()
    file.write_text(json.dumps({"credHelpers": {HOST: "tests"}}))
    assert find_credentials(file, HOST) is None
    assert store_credentials(file, HOST, ADA) == "the credential helper tests"
    assert "hunter2" not in file.read_text()
    assert find_credentials(file, HOST) == ADA
    store_credentials(file, HOST, None)
    assert find_credentials(file, HOST) is None


@pytest.mark.parametrize("helper", ["is-not-there", "../../bin/sh", "a b"])
def test_a_helper_that_cannot_run_is_named(file, helper):
    file.parent.mkdir()
    file.write_text(json.dumps({"credsStore": helper}))
    with pytest.raises(RegistryCredentialsUnusable, match="docker-credential-"):
        find_credentials(file, HOST)


def test_podman_is_asked_before_docker(tmp_path):
    named = {"REGISTRY_AUTH_FILE": "/podman.json", "DOCKER_CONFIG": "/docker"}
    assert str(usual_credentials_file(named)) == "/podman.json"
    del named["REGISTRY_AUTH_FILE"]
    assert str(usual_credentials_file(named)) == "/docker/config.json"

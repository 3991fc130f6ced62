"""A policy is read whole or refused with the place of every mistake: half a policy would be none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml

ON = {"reason": "Stop", "begins": "2026-12-20T00:00+01:00", "ends": "2027-01-07T06:00Z", "match": {"all": True}}


def problems(policy: dict[str, Any]) -> list[str]:
    document = {
        "apiVersion": "margo-gitops/v1",
        "kind": "Fleet",
        "metadata": {"name": "plant"},
        "spec": {"stateRepo": "../state.git", "policy": policy},
    }
    _, findings = find(Fleet, read_yaml(json.dumps(document, indent=1).encode(), "margo-gitops.yaml"))
    assert all(each.location and each.location.line for each in findings)
    return [f"{each.path}: {each.message}" for each in findings]


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"signatures": {"allowedSigners": "policy/signers", "commits": "mainline"}},
        {"reviews": {"default": {"count": 2, "people": ["a@b", "c@d"]}, "sites": {"north": {}}, "policy": {}}},
        {"freezes": [ON]},
        {"applications": {"default": [], "sites": {"north": [{"id": "com-acme-*", "versions": ">=1 <2 || 3.1"}]}}},
        {"registries": {"default": ["ghcr.io/acme", "registry:5000", "file:///srv/"]}},
        {"command": ["policy/check", "--strict"]},
        {"command": ["conftest"]},
    ],
    ids=lambda policy: next(iter(policy), "empty"),
)
def test_what_may_be_written(policy: dict[str, Any]):
    assert problems(policy) == []


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"signatures": {"allowedSigners": "../signers"}}, "is not a relative path"),
        ({"signatures": {"allowedSigners": "a", "commits": "some"}}, "not one of all, mainline"),
        ({"reviews": {"default": {"count": 2, "people": ["a@b", "A@B"]}}}, "2 people cannot review"),
        ({"reviews": {"default": {"people": ["Ada"]}}}, "is not a mail address"),
        ({"freezes": [ON | {"ends": "2026-12-01T00:00Z"}]}, "ends before it begins"),
        ({"freezes": [ON | {"begins": "2026-12-20T00:00"}]}, "with its time zone"),
        ({"freezes": [ON | {"begins": "2026-13-20T00:00Z"}]}, "is not a date and time"),
        ({"freezes": [{key: value for key, value in ON.items() if key != "ends"}]}, "ends is missing"),
        ({"freezes": [ON | {"match": {}}]}, "selects no device"),
        ({"applications": {"default": [{"id": "app", "versions": "^1"}]}}, "is not a comparison"),
        ({"registries": {"default": ["https://ghcr.io"]}}, "is not a host"),
        ({"command": []}, "at least 1"),
        ({"command": ["/usr/bin/check"]}, "is not in a fleet repo"),
        ({"command": ["policy/../../check"]}, "is not in a fleet repo"),
        ({"freeze": [ON]}, "unknown key 'freeze'"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_refused_with_its_place(policy: dict[str, Any], message: str):
    (found,) = problems(policy)
    assert found.startswith("spec.policy")
    assert message in found

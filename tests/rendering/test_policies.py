"""Policies as pure functions: facts in, verdicts out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.content_places import place_of
from margo_gitops.documents.fleet_kinds import Deployment, Fleet
from margo_gitops.documents.fleet_policy import Freeze
from margo_gitops.documents.records import find
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.rendering.changes import NOTHING_TO_DOWNLOAD, DeviceChange
from margo_gitops.rendering.intent import Located
from margo_gitops.rendering.policies.approvals import judge_reviews, judge_signatures
from margo_gitops.rendering.policies.facts import Commit, PolicyInForce, Step, refusing
from margo_gitops.rendering.policies.freezes import judge_freezes
from margo_gitops.rendering.policies.sources import Deployed, Source, judge_registries

PEOPLE = ("ada", "bob", "cleo", "dan", "eve")


def fleet(**policy: Any) -> Located[Fleet]:
    document = {
        "apiVersion": "margo-gitops/v1",
        "kind": "Fleet",
        "metadata": {"name": "plant"},
        "spec": {"stateRepo": "../state.git", "policy": policy},
    }
    content = json.dumps(document).encode()
    value, findings = find(Fleet, read_yaml(content, "margo-gitops.yaml"))
    assert value is not None, findings
    return Located(value, "margo-gitops.yaml", content)


def in_force(**policy: Any) -> PolicyInForce:
    read = fleet(**policy)
    return PolicyInForce(read, "b" * 40, read)


def commit(number: int = 1, author: str = "ada", **trailers: list[str]) -> Commit:
    named = tuple((key.replace("_", "-"), value) for key, values in trailers.items() for value in values)
    return Commit(f"{number:040x}", f"{author}@plant.example", ("0" * 40,), "Change", named, None, b"", committed_at=0)


def mail(name: str) -> str:
    return f"{name.title()} <{name}@plant.example>"


people = st.lists(st.sampled_from(PEOPLE), max_size=5)


@given(people, st.sampled_from(PEOPLE), people, st.integers(0, 3))
def test_a_change_passes_exactly_if_enough_others_who_may_have_reviewed_it(
    reviewers: list[str], author: str, allowed: list[str], count: int
):
    listed = sorted(set(allowed)) if len(set(allowed)) >= count else []
    rule = {"count": count, "people": [f"{name}@plant.example" for name in listed]}
    force = in_force(reviews={"default": rule})
    step = Step(commit(author=author, Reviewed_by=[mail(name) for name in reviewers]), (), (force,), frozenset({"x"}))
    verdict = judge_reviews([step], before_merge=False)
    assert verdict is not None
    counted = {name for name in reviewers if name != author and (not listed or name in listed)}
    assert (verdict.outcome == "passed") == (len(counted) >= count)


@given(people)
def test_a_review_that_is_pending_never_refuses(reviewers: list[str]):
    force = in_force(reviews={"default": {"count": 3}})
    named = [mail(name) for name in reviewers]
    step = Step(commit(Reviewed_by=named), (), (force,), frozenset({None}), changes_policy=True)
    verdict = judge_reviews([step], before_merge=True)
    assert verdict is not None
    assert refusing([verdict]) == ()


def test_mail_addresses_are_compared_without_regard_to_case():
    force = in_force(reviews={"default": {"people": ["BOB@plant.example"]}})
    step = Step(commit(Reviewed_by=["Bob <Bob@Plant.Example>"]), (), (force,), frozenset({"x"}))
    verdict = judge_reviews([step], before_merge=False)
    assert verdict is not None
    assert verdict.outcome == "passed"


def test_a_reviewer_without_an_address_is_nobody():
    force = in_force(reviews={"default": {}})
    step = Step(commit(Reviewed_by=["Bob", "<>", "a@b"]), (), (force,), frozenset({"x"}))
    verdict = judge_reviews([step], before_merge=False)
    assert verdict is not None
    assert verdict.outcome == "refused"


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans())
def test_every_commit_without_an_accepted_signature_is_named_once(good: list[bool], merged: bool):
    force = in_force(signatures={"allowedSigners": "signers"})
    commits = [commit(number) for number in range(len(good))]
    bad = {each.id for each, fine in zip(commits, good, strict=True) if not fine}
    steps = (
        [Step(commits[0], tuple(commits[1:]), (force, force))]
        if merged
        else [Step(each, (), (force,)) for each in commits]
    )
    verdict = judge_signatures(steps, lambda each, _force: "is not signed" if each.id in bad else "")
    assert verdict is not None
    assert len(verdict.reasons) == len(bad)
    assert (verdict.outcome == "passed") == (not bad)


def test_on_the_main_line_alone_what_a_merge_brings_need_not_be_signed():
    force = in_force(signatures={"allowedSigners": "signers", "commits": "mainline"})
    step = Step(commit(1), (commit(2), commit(3)), (force,))
    verdict = judge_signatures([step], lambda each, _force: "" if each.id == commit(1).id else "is not signed")
    assert verdict is not None
    assert verdict.outcome == "passed"


def test_nobody_answers_for_a_commit_before_it_or_with_a_part_of_its_id():
    force = in_force(signatures={"allowedSigners": "signers"})
    bad = commit(7)

    def objection(each: Commit, _force: PolicyInForce) -> str:
        return "is not signed" if each.id == bad.id else ""

    early, short, late = (commit(n, Approves=[name]) for n, name in ((1, bad.id), (2, bad.id[-12:]), (3, bad.id)))
    for answering, outcome in (([early], "refused"), ([], "refused")):
        steps = [Step(each, (), (force,)) for each in (*answering, bad, short)]
        verdict = judge_signatures(steps, objection)
        assert verdict is not None
        assert verdict.outcome == outcome
    healed = judge_signatures([Step(each, (), (force,)) for each in (bad, short, late)], objection)
    assert healed is not None
    assert healed.outcome == "passed"


def change(device: str = "a", site: str | None = "north", before: str | None = "north") -> DeviceChange:
    return DeviceChange(device, site, before, "changed", 1, 2, (), NOTHING_TO_DOWNLOAD)


FREEZE = {
    "reason": "Stop",
    "begins": "2026-12-20T00:00+01:00",
    "ends": "2026-12-21T00:00Z",
    "match": {"sites": ["north"]},
}
BEGINS, ENDS = 1_797_721_200, 1_797_811_200


@given(st.integers(BEGINS - 100, ENDS + 100), st.sampled_from(["north", "south", None]), st.booleans())
def test_a_frozen_site_is_refused_from_the_first_moment_to_before_the_last(at: int, site: str | None, was: bool):
    force = in_force(freezes=[FREEZE])
    found = change(site=site, before="north" if was else site)
    verdict = judge_freezes([force], at, lambda: [found], lambda _device: [])
    assert verdict is not None
    frozen = BEGINS <= at < ENDS and "north" in (found.site, found.site_before)
    assert (verdict.outcome == "refused") == frozen


def test_what_changes_is_not_asked_while_no_freeze_is_on():
    def never() -> list[DeviceChange]:
        raise AssertionError("nobody needs this")

    verdict = judge_freezes([in_force(freezes=[FREEZE])], ENDS, never, lambda _device: [])
    assert verdict is not None
    assert verdict.outcome == "passed"
    assert judge_freezes([in_force()], BEGINS, never, lambda _device: []) is None


def test_one_site_is_one_reason_however_many_devices_are_frozen_there():
    many = [change(f"d{number:04}") for number in range(5_000)]
    verdict = judge_freezes([in_force(freezes=[FREEZE, FREEZE])], BEGINS, lambda: many, lambda _device: [])
    assert verdict is not None
    (reason,) = verdict.reasons
    assert "5000 frozen devices" in reason.what
    assert len(str(reason)) < 1_000


def test_the_end_of_a_freeze_is_after_its_beginning_whatever_the_zones():
    freeze = fleet(freezes=[FREEZE]).value.spec.policy
    assert freeze is not None
    (read,) = freeze.freezes
    assert list(read.problems()) == []
    wrong: Freeze = replace(read, ends="2026-12-20T00:00+02:00")
    assert [each.message for each in wrong.problems()] == ["the freeze ends before it begins"]


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36@sha256:0", "docker.io/library/busybox"),
        ("acme/ui:1", "docker.io/acme/ui"),
        ("index.docker.io/acme/ui", "docker.io/acme/ui"),
        ("GHCR.io/acme/ui:1", "ghcr.io/acme/ui"),
        ("localhost/ui", "localhost/ui"),
        ("registry:5000/ui:1", "registry:5000/ui"),
        ("oci://registry.example.com/acme/hmi", "registry.example.com/acme/hmi"),
        ("https://user@files.example.com:8443/a.tar.gz", "files.example.com:8443/a.tar.gz"),
        ("https://allowed.example@evil.example/a", "evil.example/a"),
        ("file:///srv/a.tar.gz", "file:///srv/a.tar.gz"),
    ],
)
def test_where_a_reference_leads(reference: str, place: str):
    assert place_of(reference) == place


def deployed() -> Deployed:
    content = b"""apiVersion: margo-gitops/v1
kind: Deployment
metadata: {name: hmi}
spec: {application: {id: com-acme-hmi, version: 1.0.0}, placement: {all: true}}
"""
    value, findings = find(Deployment, read_yaml(content, "deployments/hmi.yaml"))
    assert value is not None, findings
    return Deployed(Located(value, "deployments/hmi.yaml", content), "north", "press-01")


@pytest.mark.parametrize(
    ("reference", "outcome"),
    [
        ("ghcr.io/acme/ui", "passed"),
        ("ghcr.io/acme/../evil/ui", "refused"),
        ("ghcr.io/acme/ui/..", "refused"),
        ("oci://ghcr.io/acme/../evil", "refused"),
        ("https://ghcr.io/acme/../evil.tar.gz", "refused"),
        ("https://ghcr.io/acme/%2e%2E/evil.tar.gz", "refused"),
        ("https://ghcr.io/acme/..%2Fevil.tar.gz", "refused"),
        ("https://ghcr.io/acme/..\\evil.tar.gz", "refused"),
        ("https://ghcr.io/acme/v1..2/ui.tar.gz", "passed"),
        ("https://evil.example?@ghcr.io/acme/ui.tar.gz", "refused"),
        ("https://evil.example#@ghcr.io/acme/ui.tar.gz", "refused"),
        ("https://evil.example\\@ghcr.io/acme/ui.tar.gz", "refused"),
        ("ghcr.io/acmeister/ui", "refused"),
    ],
)
def test_content_outside_the_allowed_path_is_refused_however_its_place_is_written(reference: str, outcome: str):
    force = in_force(registries={"default": ["ghcr.io/acme"]})
    verdict = judge_registries([force], [Source(deployed(), "the image of service ui", reference)])
    assert verdict is not None
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    ("reviewer", "trailers", "outcome"),
    [
        ("bob", {}, "passed"),
        ("ada", {}, "refused"),
        ("cleo", {}, "refused"),
        ("dan", {}, "refused"),
        ("dan", {"Co_authored_by": ["Someone Else <else@plant.example>"]}, "refused"),
        ("bob", {"Co_authored_by": [mail("bob")]}, "refused"),
    ],
)
def test_neither_the_authors_of_a_change_nor_those_of_the_approval_review_it(
    reviewer: str, trailers: dict[str, list[str]], outcome: str
):
    force = in_force(reviews={"default": {}})
    changing = Step(commit(1, "ada", Co_authored_by=[mail("cleo")]), (), (force,), frozenset({"x"}))
    approval = commit(2, "dan", Reviewed_by=[mail(reviewer)], Approves=[commit(1).id], **trailers)
    verdict = judge_reviews([changing, Step(approval, (), (force,))], before_merge=False)
    assert verdict is not None
    assert verdict.outcome == outcome

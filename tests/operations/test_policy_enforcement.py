"""A change that the policy forbids is refused by `validate`, `plan` and `render`, each time for the same reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from operations.policy_world import NOON, SIGNERS, PolicyWorld, make_world
from support.fleet import FleetFolder

from margo_gitops.errors import PolicyUnusable, RenderingRefused
from margo_gitops.operations.plan.planning import exit_code
from margo_gitops.operations.policies import policy_judging
from margo_gitops.operations.validate.finding_formats import FORMATS
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet

DECEMBER = {"begins": "2026-12-20T00:00+01:00", "ends": "2027-01-07T06:00+01:00"}
BEFORE, AFTER = NOON - 30 * 86_400, NOON + 30 * 86_400


@pytest.fixture
def world(tmp_path: Path) -> PolicyWorld:
    return make_world(tmp_path)


def refused(world: PolicyWorld, base: str) -> set[str]:
    """Return the rules that refuse HEAD; all three commands must say the same, and render must write nothing."""
    before = world.state()
    with pytest.raises(RenderingRefused) as caught:
        world.render()
    rules = {each.code for each in caught.value.errors}
    assert world.state() == before
    planned = world.plan()
    assert {each.rule for each in planned.breaches} == rules
    assert exit_code(planned) == 2
    assert {each.rule for each in world.errors(base)} == rules
    assert all(each.file and each.line and each.column for each in world.errors(base))
    return rules


def passes(world: PolicyWorld, base: str) -> None:
    """Check that all three commands let HEAD pass."""
    assert world.errors(base) == []
    assert not world.plan().refused
    world.render()


def started(world: PolicyWorld, **policy: object) -> str:
    """Commit and render the fleet with a policy; returns the commit."""
    world.policy(**policy)
    commit = world.commit("Start", at=BEFORE)
    world.render()
    return commit


def freeze(**match: object) -> dict[str, object]:
    return {"freezes": [{"reason": "Year-end production", **DECEMBER, "match": match}]}


def test_a_change_of_a_frozen_site_is_refused_while_the_freeze_is_on(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.fleet.site("north", p="second")
    world.commit(at=NOON)
    assert refused(world, base) == {"MG1223"}
    (found,) = world.errors(base)
    assert "1 frozen device of site north: Year-end production" in found.message
    assert found.place.startswith("margo-gitops.yaml:")
    assert "north-1" in found.sentence


@pytest.mark.parametrize("at", [BEFORE, AFTER], ids=["before", "after"])
def test_before_and_after_a_freeze_everything_may_change(world: PolicyWorld, at: int):
    base = started(world, **freeze(all=True))
    world.fleet.site("north", p="second")
    world.commit(at=at)
    passes(world, base)


def test_other_sites_may_change_during_a_freeze(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.fleet.site("south", p="second")
    world.commit(at=NOON)
    passes(world, base)


def test_a_frozen_change_passes_once_it_is_taken_back_or_the_freeze_is_over(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.fleet.site("north", p="second")
    frozen = world.commit(at=NOON)
    world.fleet.site("south", p="second")
    world.commit(at=NOON + 60)
    assert refused(world, base) == {"MG1223"}
    world.fleet.site("north", p="first")
    world.commit(at=NOON + 120)
    passes(world, base)
    world.fleet.git.run("checkout", "--quiet", frozen, "--", "sites/north.yaml")
    world.commit("Now", at=AFTER)
    passes(world, base)


@pytest.mark.parametrize("way", ["label", "move", "leave"])
def test_neither_a_new_label_nor_a_move_nor_leaving_is_a_way_out_of_a_freeze(world: PolicyWorld, way: str):
    base = started(world, **freeze(matchLabels={"line": "north"}))
    if way == "label":
        world.fleet.device("north-1", site="north", labels={"line": "other"}, p="second")
    elif way == "move":
        world.fleet.device("north-1", site="south", labels={"line": "other"})
    else:
        world.fleet.remove("devices/north-1.yaml")
    world.commit(at=NOON)
    assert refused(world, base) == {"MG1223"}


def test_a_change_cannot_lift_the_freeze_that_it_breaks(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.policy()
    world.fleet.site("north", p="second")
    world.commit(at=NOON)
    assert refused(world, base) == {"MG1223"}
    assert "the policy is that of" in world.errors(base)[0].sentence


def test_a_freeze_is_lifted_by_a_commit_of_its_own(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.policy()
    lifted = world.commit("Lift the freeze", at=NOON)
    passes(world, base)
    world.fleet.site("north", p="second")
    world.commit(at=NOON + 60)
    passes(world, lifted)


def test_a_branch_cannot_lift_a_freeze_in_its_first_commit_and_break_it_in_the_second(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.branch("sly")
    world.policy()
    world.commit("Lift", at=NOON)
    world.fleet.site("north", p="second")
    world.commit("Break", at=NOON)
    assert {each.rule for each in world.errors(base)} == {"MG1223"}
    assert world.plan(base=base).refused
    world.main()
    world.merge("sly", "Merge", at=NOON)
    assert refused(world, base) == {"MG1223"}


def test_files_that_are_not_committed_are_judged_by_the_date_that_is_handed_in(world: PolicyWorld):
    base = started(world, **freeze(sites=["north"]))
    world.fleet.site("north", p="second")
    assert {each.rule for each in world.plan(None, at=NOON).breaches} == {"MG1223"}
    assert not world.plan(None, at=AFTER).refused
    assert {each.rule for each in world.errors(base, None, at=NOON)} == {"MG1223"}
    assert world.errors(base, None, at=AFTER) == []


def test_a_freeze_never_changes_what_is_rendered(world: PolicyWorld, tmp_path: Path):
    other = make_world(tmp_path / "other")
    other.policy()
    other.commit("Start", at=BEFORE)
    other.render()
    started(world, **freeze(sites=["south"]))
    trees = []
    for each in (world, other):
        state = each.fleet.root.parent / "state.git"
        trees.append(each.fleet.git.run("-C", str(state), "rev-parse", "refs/heads/fleet^{tree}"))
    assert trees[0] == trees[1]


def test_an_unsigned_commit_is_refused_and_a_signed_one_passes(world: PolicyWorld):
    world.signer("ada")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.fleet.site("north", p="second")
    world.commit()
    assert refused(world, base) == {"MG1221"}
    world.fleet.git.run("reset", "--quiet", "--soft", base)
    world.commit(sign="ada")
    passes(world, base)


def test_a_commit_cannot_add_its_own_key_to_the_list(world: PolicyWorld):
    world.signer("ada")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.signer("ada", "eve")
    world.commit(by="eve", sign="eve")
    assert refused(world, base) == {"MG1221"}
    assert "does not list the key" in world.errors(base)[0].sentence


def test_a_commit_cannot_drop_the_rule_that_it_breaks(world: PolicyWorld):
    world.signer("ada")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.policy()
    world.commit()
    assert refused(world, base) == {"MG1221"}


def test_a_commit_that_breaks_the_policy_does_not_switch_it_off_for_the_next(world: PolicyWorld):
    world.signer("ada")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.fleet.put("margo-gitops.yaml", "nonsense: [")
    world.commit(sign="ada")
    world.policy()
    world.fleet.site("north", p="second")
    world.commit(by="eve")
    assert refused(world, base) == {"MG1221"}


def test_every_commit_that_a_merge_brings_must_be_signed_or_only_the_merge(world: PolicyWorld):
    world.signer("ada", "bob")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.branch("work")
    world.fleet.site("north", p="second")
    world.commit()
    world.main()
    world.merge("work", "Merge", sign="bob")
    assert refused(world, base) == {"MG1221"}
    assert len(world.errors(base)) == 1

    world.fleet.git.run("reset", "--quiet", "--hard", base)
    world.policy(signatures={"allowedSigners": SIGNERS, "commits": "mainline"})
    base = world.commit(sign="ada")
    world.render()
    world.merge("work", "Merge", sign="bob")
    passes(world, base)


def test_a_merged_breach_is_healed_by_a_signed_commit_that_answers_for_it(world: PolicyWorld):
    world.signer("ada", "bob")
    base = started(world, signatures={"allowedSigners": SIGNERS})
    world.fleet.site("north", p="second")
    breach = world.commit(by="eve")
    world.commit(f"Looked at it\n\nApproves: {breach}", by="eve")
    assert refused(world, base) == {"MG1221"}
    world.fleet.git.run("reset", "--quiet", "--hard", breach)
    world.commit(f"Looked at it\n\nApproves: {breach}", by="bob", sign="bob")
    passes(world, base)


REVIEWS = {
    "reviews": {
        "default": {"count": 1},
        "sites": {"north": {"count": 2, "people": ["bob@plant.example", "cleo@plant.example"]}},
        "policy": {"count": 1, "people": ["cleo@plant.example"]},
    }
}


def reviewed(*names: str) -> str:
    return "Change\n\n" + "".join(f"Reviewed-by: {name.title()} <{name}@plant.example>\n" for name in names)


@pytest.mark.parametrize(
    ("site", "names", "enough"),
    [
        ("south", [], False),
        ("south", ["ada"], False),
        ("south", ["dan"], True),
        ("north", ["bob"], False),
        ("north", ["bob", "bob"], False),
        ("north", ["bob", "dan"], False),
        ("north", ["bob", "cleo"], True),
    ],
    ids=lambda value: "-".join(value) or "nobody" if isinstance(value, list) else str(value),
)
def test_a_change_of_a_site_needs_its_reviewers(world: PolicyWorld, site: str, names: list[str], enough: bool):
    base = started(world, **REVIEWS)
    world.fleet.site(site, p="second")
    world.commit(reviewed(*names))
    if enough:
        passes(world, base)
    else:
        assert refused(world, base) == {"MG1222"}
        assert f"site {site}" in world.errors(base)[0].message


def test_f7_a_gate_that_is_set_up_without_numbers_is_closed(world: PolicyWorld):
    base = started(world, reviews={"default": {}})
    world.fleet.site("north", p="second")
    world.commit()
    assert refused(world, base) == {"MG1222"}


def test_what_changes_no_device_needs_no_review(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.put("README.md", "Hello\n")
    world.commit()
    passes(world, base)


def test_a_change_of_the_policy_needs_its_own_reviewers(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.policy()
    world.commit(reviewed("bob"))
    assert refused(world, base) == {"MG1222"}
    assert "the policy" in world.errors(base)[0].message
    world.fleet.git.run("commit", "--amend", "--quiet", "-m", reviewed("cleo"))
    passes(world, base)


URGENT = {"reviews": {"urgent": {"count": 2, "people": ["bob@plant.example", "cleo@plant.example"]}}}


def test_what_passes_maintenance_windows_needs_its_own_reviewers(world: PolicyWorld):
    base = started(world, **URGENT)
    world.fleet.deployment("web", parameters={"p": "second"})
    base = world.commit()
    passes(world, base)
    world.fleet.deployment("web", parameters={"p": "second"}, urgent=True)
    world.commit(reviewed("bob"))
    assert refused(world, base) == {"MG1222"}
    assert "changes the urgent deployment web, which 2 people must review" in world.errors(base)[0].message
    world.fleet.git.run("commit", "--amend", "--quiet", "-m", reviewed("bob", "cleo"))
    passes(world, base)


@pytest.mark.parametrize("change", ["own", "site", "removed", "ended"])
def test_each_change_of_an_urgent_deployment_needs_them_and_its_end_does_not(world: PolicyWorld, change: str):
    nights = {"timeZone": "UTC", "windows": [{"days": "FREQ=DAILY", "start": "02:00", "duration": "1h"}]}
    world.fleet.site("south", maintenance=nights)
    world.fleet.deployment("web", urgent=True)
    world.fleet.deployment("other")
    base = started(world, **URGENT)
    if change == "own":
        world.fleet.deployment("web", urgent=True, parameters={"p": "third"})
    elif change == "site":
        world.fleet.site("north", p="third")
    elif change == "removed":
        (world.fleet.root / "deployments/web.yaml").unlink()
    else:
        world.fleet.deployment("web")
    world.commit()
    if change == "ended":
        passes(world, base)
    else:
        assert refused(world, base) == {"MG1222"}


def test_who_merges_counts_unless_the_merge_holds_work_of_its_own(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.branch("work")
    world.fleet.site("south", p="second")
    world.commit()
    world.main()
    world.merge("work", reviewed("bob"), by="bob")
    passes(world, base)
    base = world.head()
    world.branch("more")
    world.fleet.site("south", p="third")
    world.commit()
    world.main()
    world.merge("more", reviewed("bob"), by="bob")
    world.fleet.site("south", p="of the merger")
    world.fleet.git.run("add", "--all")
    world.fleet.git.run("commit", "--quiet", "--amend", "--no-edit")
    assert refused(world, base) == {"MG1222"}


def test_co_authors_do_not_count_as_reviewers(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("south", p="second")
    world.commit(f"{reviewed('dan')}Co-authored-by: Dan <dan@plant.example>")
    assert refused(world, base) == {"MG1222"}


def test_a_commit_that_cannot_be_rendered_needs_the_reviews_with_the_one_that_mends_it(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("north", p="second")
    world.fleet.put("sites/broken.yaml", "x: [")
    world.commit(by="eve")
    world.fleet.remove("sites/broken.yaml")
    world.commit(reviewed("eve"))
    assert refused(world, base) == {"MG1222"}
    assert "site north" in world.errors(base)[0].message


def test_each_step_needs_its_own_reviews(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("south", p="second")
    world.commit("Nobody looked")
    world.fleet.site("south", p="third")
    world.commit(reviewed("dan"))
    assert refused(world, base) == {"MG1222"}


def test_missing_reviews_are_healed_by_a_later_commit_that_names_the_change(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("south", p="second")
    breach = world.commit()
    world.commit(f"{reviewed('dan')}Approves: {breach}", by="bob")
    passes(world, base)


def test_in_a_merge_request_missing_reviews_are_told_and_refuse_nothing(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("north", p="second")
    world.commit()
    assert world.errors(base, before_merge=True) == []
    planned = world.plan(base=base, before_merge=True)
    assert not planned.refused
    assert [(each.part, each.outcome, len(each.reasons)) for each in planned.policy] == [("reviews", "pending", 1)]
    assert exit_code(planned) == 1


def test_files_that_are_not_committed_may_still_be_reviewed(world: PolicyWorld):
    base = started(world, **REVIEWS)
    world.fleet.site("north", p="second")
    (verdict,) = world.plan(None).policy
    assert verdict.outcome == "pending"
    assert world.errors(base, None) == []


def test_an_application_or_version_that_is_not_allowed_is_refused_at_its_line(world: PolicyWorld):
    base = started(world, applications={"default": [{"id": "app", "versions": "<2"}]})
    world.fleet.deployment("web", version="2.0.0")
    world.commit()
    assert refused(world, base) == {"MG1224"}
    found = world.errors(None)[0]
    assert found.file == "deployments/web.yaml"
    assert "app 2.0.0 may not be deployed" in found.message
    assert found.why[0].startswith("allowed there: app <2 (")


def test_what_obeyed_the_same_policy_is_not_judged_again(world: PolicyWorld, monkeypatch: pytest.MonkeyPatch):
    allowed = {"applications": {"default": [{"id": "app", "versions": "<2"}]}}
    world.policy(**allowed)
    world.commit()
    world.render()
    world.fleet.device("south-1", site="south", labels={"line": "new"})
    world.commit()
    with monkeypatch.context() as patch:
        patch.setattr(policy_judging, "read_fleet", None)
        assert world.plan(device="south-1").policy == world.plan().policy != ()
        world.render()
    world.policy(applications={"default": [{"id": "app", "versions": ">=2"}]})
    world.fleet.device("south-1", site="south", labels={"line": "newer"})
    world.commit()
    with pytest.raises(RenderingRefused, match="may not be deployed"):
        world.render()


def test_a_site_has_applications_of_its_own(world: PolicyWorld):
    base = started(world, applications={"default": [{"id": "*"}], "sites": {"north": [{"id": "app", "versions": "1"}]}})
    world.fleet.deployment("web", version="2.0.0", on=["south-1"])
    world.commit()
    passes(world, base)
    world.fleet.deployment("web", version="2.0.0")
    world.commit()
    assert refused(world, base) == {"MG1224"}


def test_a_change_cannot_allow_what_it_deploys(world: PolicyWorld):
    base = started(world, applications={"default": [{"id": "app", "versions": "<2"}]})
    world.policy(applications={"default": [{"id": "app"}]})
    world.fleet.deployment("web", version="2.0.0")
    world.commit()
    assert refused(world, base) == {"MG1224"}
    world.fleet.deployment("web")
    allowed = world.commit("Allow it first")
    passes(world, base)
    world.fleet.deployment("web", version="2.0.0")
    world.commit()
    passes(world, allowed)


def test_content_of_a_registry_that_is_not_allowed_is_refused(world: PolicyWorld):
    base = started(world, registries={"default": ["registry.example.com/compose"]})
    world.policy(registries={"default": ["registry.example.com"], "sites": {"north": []}})
    world.commit()
    assert refused(world, base) == {"MG1225"}
    (found,) = world.errors(base)
    assert "registry.example.com/compose, which is not allowed at site north" in found.message
    assert found.file == "deployments/web.yaml"


def test_images_of_compose_files_come_from_allowed_places_even_where_a_parameter_names_them(world: PolicyWorld):
    base = started(world)
    folder = "applications/hmi/1.0.0"
    services = {
        "ui": {"image": "ghcr.io/acme/ui:1"},
        "db": {"image": "${IMAGE:-ghcr.io/acme/db:1}"},
        "x": {"build": "."},
    }
    world.fleet.put(f"{folder}/content/compose.yaml", {"services": services})
    component = {
        "name": "hmi",
        "properties": {"repository": "oci://registry.example.com/hmi", "revision": "1.0.0"},
        "x-margo-gitops-extensions": {"artifact": {"path": "content"}},
    }
    profile = {"type": "compose", "id": "hmi", "components": [component]}
    image = {"targets": [{"pointer": "IMAGE", "components": ["hmi"]}], "value": "ghcr.io/acme/db:1"}
    world.fleet.application("hmi", deploymentProfiles=[profile], parameters={"image": image})
    world.fleet.deployment("hmi", "hmi", on=["south-1"], parameters={"image": "evil.example/db:1"})
    policy = {"registries": {"default": ["ghcr.io/acme", "registry.example.com"]}}
    world.fleet.fleet(policy=policy, artifacts={"baseUrl": "file:///srv/"})
    world.commit()
    assert refused(world, base) == {"MG1225"}
    found = {each.message.split(" of hmi")[0]: each for each in world.errors(base)}
    assert set(found) == {"the image of service db", "the image of service x"}
    assert found["the image of service db"].file == "deployments/hmi.yaml"
    assert "from an unknown source" in found["the image of service x"].message


def test_a_list_of_signers_that_is_not_there_is_refused_before_it_is_in_force(world: PolicyWorld):
    base = started(world)
    world.policy(signatures={"allowedSigners": SIGNERS})
    world.commit()
    assert refused(world, base) == {"MG1220"}
    world.signer("ada")
    world.commit(by="eve")
    passes(world, base)


def test_a_fleet_without_a_policy_has_no_verdicts(world: PolicyWorld):
    started(world)
    world.fleet.site("north", p="second")
    assert world.plan(None).policy == ()


def test_a_freeze_that_is_over_is_a_note(world: PolicyWorld):
    started(world, **freeze(sites=["north"]))
    world.commit(at=NOON)
    assert "R301" not in rules_of_notes(world)
    world.commit(at=AFTER)
    assert "R301" in rules_of_notes(world)


def rules_of_notes(world: PolicyWorld) -> set[str]:
    request = ValidateRequest(world.fleet.root, "HEAD", None, None, world.cache)
    return {each.rule for each in validate_fleet(request).findings if each.severity == "note"}


@pytest.mark.parametrize("output", sorted(FORMATS))
def test_a_breach_is_told_in_every_format_with_its_rule_and_line(world: PolicyWorld, output: str):
    base = started(world, **freeze(sites=["north"]))
    world.fleet.site("north", p="second")
    world.commit(at=NOON)
    found = validate_fleet(ValidateRequest(world.fleet.root, "HEAD", base, None, world.cache))
    (breach,) = [each for each in found.findings if each.rule == "MG1223"]
    text = FORMATS[output](found)
    assert "MG1223" in text
    assert "Year-end production" in text
    assert str(breach.line) in text


def shallow_clone(world: PolicyWorld, folder: Path) -> PolicyWorld:
    world.fleet.git.run("clone", "--quiet", "--depth=1", f"file://{world.fleet.root}", str(folder / "fleet"))
    return PolicyWorld(FleetFolder(folder / "fleet"))


def test_a_shallow_clone_is_told_to_fetch_the_history(world: PolicyWorld, tmp_path: Path):
    world.signer("ada")
    started(world, signatures={"allowedSigners": SIGNERS})
    world.fleet.site("north", p="second")
    world.commit()
    clone = shallow_clone(world, tmp_path / "clone")
    for ask in (clone.render, clone.plan, lambda: clone.errors(None)):
        with pytest.raises(PolicyUnusable, match="history is not whole") as caught:
            ask()
        assert "unshallow" in caught.value.remedy
    assert clone.state() == {}


def test_a_shallow_clone_is_enough_for_a_fleet_without_a_policy(world: PolicyWorld, tmp_path: Path):
    started(world)
    world.fleet.site("north", p="second")
    world.commit()
    clone = shallow_clone(world, tmp_path / "clone")
    assert clone.errors(None) == []
    assert len(clone.plan().devices) == 2
    assert clone.plan(None).policy == ()


def test_in_a_merge_request_the_signature_of_the_merge_is_still_to_come(world: PolicyWorld):
    world.signer("bob")
    base = started(world, signatures={"allowedSigners": SIGNERS, "commits": "mainline"})
    world.branch("work")
    world.fleet.site("north", p="second")
    world.commit()
    assert {each.rule for each in world.errors(base)} == {"MG1221"}
    assert world.errors(base, before_merge=True) == []
    (verdict,) = world.plan(base=base, before_merge=True).policy
    assert verdict.outcome == "skipped"


def test_a_shallow_clone_hides_no_commit_from_the_policy(world: PolicyWorld, tmp_path: Path):
    world.signer("ada")
    base = started(world, signatures={"allowedSigners": SIGNERS, "commits": "all"})
    world.fleet.git.run("switch", "--quiet", "--create", "change")
    world.fleet.put("README.md", "Hoi")
    world.commit("Nobody signed this")
    world.fleet.put("README.md", "Salut")
    world.commit("Somebody signed this", sign="ada")
    world.fleet.git.run("switch", "--quiet", "main")
    world.merge("change", "Merge", sign="ada")
    url = world.fleet.root.as_uri()
    world.fleet.git.run("clone", "--quiet", "--depth", "2", url, str(tmp_path / "shallow"))
    with pytest.raises(PolicyUnusable, match="history is not whole"):
        validate_fleet(ValidateRequest(tmp_path / "shallow", "HEAD", base, None, tmp_path / "cache"))


def test_a_site_that_is_named_in_vain_is_a_warning_at_its_line(world: PolicyWorld):
    world.policy(reviews={"sites": {"noth": {"count": 1}}}, **freeze(sites=["north", "west"]))
    world.commit()
    request = ValidateRequest(world.fleet.root, "HEAD", None, None, world.cache)
    found = [each for each in validate_fleet(request).findings if each.rule == "R302"]
    assert sorted(each.message for each in found) == [
        "the policy names noth, which is not a site",
        "the policy names west, which is not a site",
    ]
    assert all(each.severity == "warning" and each.line and "known: north, south" in each.remedy for each in found)

"""The rules of `margo_gitops.trust.trusted_state`, one refusal after the other."""

import json
from dataclasses import replace

import pytest
from device_states import (
    DEVICE,
    GREETER,
    RENDERED_AT,
    RENDERER,
    STRANGER,
    VISION,
    DeviceState,
    allowed,
    deployment,
)
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import StateBounds
from margo_gitops.errors import (
    CommitInvalid,
    ContentMismatch,
    DigestMismatch,
    ExitCode,
    ForeignDevice,
    HistoryRewritten,
    Oversized,
    SignatureInvalid,
    SignatureMissing,
    SignerUnknown,
    StateDocumentInvalid,
    TrustRefused,
    VersionReused,
    VersionRollback,
)
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.git_commit import parse_commit, sign_commit
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustPolicy, judge

SIGNED = TrustPolicy(DEVICE, allowed())
UNSIGNED = TrustPolicy(DEVICE, None)
STATE = DeviceState()
TWO_TO_53 = 2**53
LAST_VERSION = 2**64 - 1


def refusal(kind, snapshot, policy=SIGNED, floor=None):
    """Return the refusal, which is of exactly this class and says what, why or what to do."""
    with pytest.raises(TrustRefused) as caught:
        judge(snapshot, policy, floor)
    assert type(caught.value) is kind, caught.value
    assert caught.value.exit_code == ExitCode.TRUST
    assert caught.value.device == policy.device
    assert caught.value.remedy
    return caught.value


# What is believed


def test_a_signed_state_is_trusted_at_first_contact():
    trusted = judge(STATE.over_git(), SIGNED, None)
    assert trusted.manifest.manifest_version == 1
    assert [document.id for document in trusted.deployments] == [VISION, GREETER]
    assert trusted.floor == Floor(1, STATE.digest, STATE.commit_id)
    assert trusted.signer == f"renderer@example.com {RENDERER.public.fingerprint}"
    assert trusted.snapshot == STATE.over_git()


def test_deployments_come_in_the_order_of_the_manifest():
    turned = STATE.but(deployments={GREETER: deployment(GREETER), VISION: deployment(VISION)})
    assert [document.id for document in judge(turned.over_git(), SIGNED, None).deployments] == [GREETER, VISION]


def test_the_same_bytes_are_trusted_over_http_where_signatures_are_not_asked_for():
    trusted = judge(STATE.over_http(), UNSIGNED, None)
    assert trusted.floor == Floor(1, STATE.digest, None)
    assert trusted.signer is None


def test_a_device_that_shall_run_nothing_is_told_so():
    trusted = judge(STATE.but(deployments={}).over_git(), SIGNED, None)
    assert trusted.deployments == ()
    assert trusted.manifest.bundle is None


def test_size_bytes_are_advisory():
    reference = {
        "deploymentId": VISION,
        "digest": sha256(deployment(VISION)),
        "sizeBytes": 1,
        "url": f"/api/v1/deployments/{VISION}/x",
    }
    state = STATE.but(deployments={VISION: deployment(VISION)}, manifest={"deployments": [reference]})
    assert judge(state.over_git(), SIGNED, None).deployments[0].id == VISION


def test_a_gateway_trusts_state_for_its_children_and_for_any_of_them():
    deployments = {VISION: deployment(VISION, f"{DEVICE}/camera"), GREETER: deployment(GREETER, f"{DEVICE}/*")}
    judge(STATE.but(deployments=deployments).over_git(), SIGNED, None)


def test_a_child_with_an_agent_of_its_own_reads_the_state_of_its_client():
    state = STATE.but(deployments={VISION: deployment(VISION, "press-07/camera")})
    judge(state.over_git(), TrustPolicy("press-07/camera", allowed()), None)


# TRUST-1


@pytest.mark.parametrize(
    ("bounds", "what"),
    [
        (StateBounds(manifest_bytes=100), "bytes in manifest.json"),
        (StateBounds(deployment_bytes=100), f"bytes in deployments/{VISION}.yaml"),
        (StateBounds(deployments=1), "deployments"),
        (StateBounds(total_bytes=1000), "bytes in all files together"),
    ],
)
def test_g_c_9_oversized_state_is_refused_before_anything_in_it_is_read(bounds, what):
    state = STATE.but(manifest_text=b"{" * len(STATE.manifest_bytes))
    error = refusal(Oversized, state.over_git(), replace(SIGNED, bounds=bounds))
    assert what in error.what


def test_state_at_its_bounds_is_trusted():
    sizes = [len(content) for content in STATE.deployments.values()]
    manifest = len(STATE.manifest_bytes)
    bounds = StateBounds(manifest, max(sizes), len(sizes), manifest + sum(sizes))
    judge(STATE.over_git(), replace(SIGNED, bounds=bounds), None)


# TRUST-2, TRUST-3


def test_a_malformed_commit_is_refused():
    snapshot = replace(STATE.over_git(), commit=b"tree " + STATE.commit)
    refusal(CommitInvalid, snapshot)


def test_g_m_6_a_tampered_deployment_is_not_the_commits():
    tampered = STATE.but(files={VISION: deployment(VISION, greeting="Goodbye")})
    error = refusal(DigestMismatch, tampered.over_git())
    assert parse_commit(STATE.commit).tree in str(error)


def test_a_tampered_manifest_is_not_the_commits():
    refusal(DigestMismatch, replace(STATE.over_git(), manifest=STATE.manifest_bytes + b"\n"))


def test_a_file_more_than_was_committed_is_refused():
    extra = "11111111-1111-5111-8111-111111111111"
    refusal(DigestMismatch, STATE.but(files={extra: deployment(extra)}).over_git())


def test_a_file_name_that_leaves_its_folder_is_refused():
    refusal(ContentMismatch, STATE.but(files={"../manifest": b""}).over_git())


# TRUST-4


def test_g_m_5_unsigned_state_is_refused_where_signatures_are_asked_for():
    error = refusal(SignatureMissing, STATE.but(key=None).over_git())
    assert "no signature" in str(error)


def test_state_without_a_commit_is_refused_where_signatures_are_asked_for():
    error = refusal(SignatureMissing, STATE.over_http())
    assert "without a commit" in str(error)


def test_a_strangers_signature_is_refused_by_name():
    error = refusal(SignerUnknown, STATE.but(key=STRANGER).over_git())
    assert STRANGER.public.fingerprint in str(error)
    assert "does not list the key" in str(error)


def test_a_key_for_another_use_is_refused_and_the_reason_says_so():
    policy = TrustPolicy(DEVICE, allowed(options='namespaces="file"'))
    assert "is for 'file', not for 'git'" in str(refusal(SignerUnknown, STATE.over_git(), policy))


def test_a_key_that_had_expired_when_it_signed_is_refused_and_the_reason_says_so():
    policy = TrustPolicy(DEVICE, allowed(options='valid-before="20260901Z"'))
    error = refusal(SignerUnknown, STATE.over_git(), policy)
    assert "was valid until 2026-09-01" in str(error)
    assert "allowed_signers:1:" in str(error)


def test_a_key_that_expired_after_it_signed_is_believed():
    judge(STATE.over_git(), TrustPolicy(DEVICE, allowed(options='valid-before="20261001Z"')), None)


def test_a_signature_moved_to_another_commit_is_refused():
    signature = parse_commit(STATE.commit).signature
    other = STATE.but(committed_at=RENDERED_AT + 1, key=None)
    armor = signature.replace("\n", "\n ").encode()
    commit = other.commit.replace(b"\n\n", b"\ngpgsig " + armor + b"\n\n", 1)
    refusal(SignatureInvalid, replace(other.over_git(), commit=commit))


def test_a_signature_of_another_kind_is_refused():
    pgp = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQEz\n -----END PGP SIGNATURE-----"
    commit = STATE.but(key=None).commit.replace(b"\n\n", b"\n" + pgp + b"\n\n", 1)
    refusal(SignatureInvalid, replace(STATE.over_git(), commit=commit))


def test_any_flipped_byte_of_a_signed_commit_is_refused():
    commit = STATE.commit
    for at in range(0, len(commit), 7):
        flipped = commit[:at] + bytes([commit[at] ^ 1]) + commit[at + 1 :]
        with pytest.raises(TrustRefused):
            judge(replace(STATE.over_git(), commit=flipped), SIGNED, None)


# TRUST-5 to TRUST-8


@pytest.mark.parametrize("name", ["Manifest-Digest", "Device", "Manifest-Version"])
def test_g_m_3_a_commit_without_its_trailers_is_refused(name):
    error = refusal(CommitInvalid, STATE.but(trailers={name: None}).over_git())
    assert name in str(error)


def test_a_commit_of_another_manifest_is_refused():
    refusal(DigestMismatch, STATE.but(trailers={"Manifest-Digest": sha256(b"another")}).over_git())


def test_g_m_7_a_commit_for_another_device_is_refused():
    error = refusal(ForeignDevice, STATE.but(trailers={"Device": "press-08"}).over_git())
    assert "'press-08'" in str(error)


def test_a_commit_of_another_fleet_is_refused_where_the_device_knows_its_fleet():
    policy = replace(SIGNED, fleet="plant")
    ours = STATE.but(trailers={"Fleet": "plant"})
    assert judge(ours.over_git(), policy, None).fleet == "plant"
    assert judge(STATE.but(trailers={"Fleet": "other"}).over_git(), SIGNED, None).fleet == "other"
    error = refusal(ForeignDevice, STATE.but(trailers={"Fleet": "other"}).over_git(), policy)
    assert "'other'" in str(error)
    refusal(CommitInvalid, STATE.but(trailers={"Fleet": None}).over_git(), policy)
    unsigned = judge(replace(ours, key=None).over_git(), UNSIGNED, None)
    assert unsigned.fleet is None


@pytest.mark.parametrize("stated", ["2", "01", "1.0", "1e0", "+1"])
def test_a_commit_that_states_another_version_is_refused(stated):
    refusal(CommitInvalid, STATE.but(trailers={"Manifest-Version": stated}).over_git())


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{",
        b'{"manifestVersion": 1, "bundle": null}',
        b'{"manifestVersion": 1, "manifestVersion": 2, "bundle": null, "deployments": []}',
        b'{"manifestVersion": 1, "bundle": null, "deployments": []} {}',
        b'\xff{"manifestVersion": 1, "bundle": null, "deployments": []}',
        b'{"manifestVersion": ' + b"[" * 100_000,
    ],
)
def test_a_manifest_that_breaks_its_contract_is_refused(manifest):
    error = refusal(StateDocumentInvalid, STATE.but(deployments={}, manifest_text=manifest).over_git())
    assert error.where.file == "manifest.json"


def test_a_bundle_without_deployments_is_refused():
    bundle = json.loads(STATE.manifest_bytes)["bundle"]
    refusal(StateDocumentInvalid, STATE.but(deployments={}, manifest={"bundle": bundle}).over_git())


# TRUST-9 to TRUST-11, over HTTP: no commit has said it before


def test_a_missing_deployment_is_refused():
    error = refusal(ContentMismatch, STATE.but(files={VISION: None}).over_http(), UNSIGNED)
    assert error.why == (f"deployments/{VISION}.yaml is listed, but not there",)


def test_an_unlisted_deployment_is_refused():
    extra = "11111111-1111-5111-8111-111111111111"
    error = refusal(ContentMismatch, STATE.but(files={extra: deployment(extra)}).over_http(), UNSIGNED)
    assert error.why == (f"deployments/{extra}.yaml is there, but not listed",)


def test_a_deployment_with_other_bytes_is_refused():
    tampered = STATE.but(files={VISION: STATE.deployments[VISION] + b"\n"})
    error = refusal(DigestMismatch, tampered.over_http(), UNSIGNED)
    assert error.where.file == f"deployments/{VISION}.yaml"


def test_a_bundle_of_other_deployments_is_refused():
    bundle = json.loads(DeviceState(deployments={VISION: deployment(VISION)}).manifest_bytes)["bundle"]
    refusal(DigestMismatch, STATE.but(manifest={"bundle": bundle}).over_git())


def test_another_servers_archive_of_the_same_deployments_is_its_own_affair_over_http():
    bundle = json.loads(DeviceState(deployments={VISION: deployment(VISION)}).manifest_bytes)["bundle"]
    judge(STATE.but(manifest={"bundle": bundle}).over_http(), UNSIGNED, None)


# TRUST-12, TRUST-13


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id: [",
        b"a: &a [1]\nb: *a\n",
        deployment(VISION).replace(b"spec:", b"specification:"),
        deployment(VISION, device=None),
    ],
)
def test_a_deployment_that_breaks_its_contract_is_refused(content):
    error = refusal(StateDocumentInvalid, STATE.but(deployments={VISION: content}).over_git())
    assert error.where.file == f"deployments/{VISION}.yaml"


def test_a_deployment_with_another_id_than_listed_is_refused():
    refusal(StateDocumentInvalid, STATE.but(deployments={VISION: deployment(GREETER)}).over_git())


def test_ids_are_the_same_in_either_case():
    judge(STATE.but(deployments={VISION: deployment(VISION.upper())}).over_git(), SIGNED, None)


def test_a_deployment_in_an_older_shape_without_a_device_is_for_the_client():
    older = b"kind: ApplicationDeployment\n" + deployment(VISION, device=None)
    (document,) = judge(STATE.but(deployments={VISION: older}).over_git(), SIGNED, None).deployments
    assert document.metadata.device_id is None


@pytest.mark.parametrize("device", ["press-08", "press-07x", "press", "press-07x/camera", "PRESS-07"])
def test_a_deployment_for_another_device_is_refused(device):
    error = refusal(ForeignDevice, STATE.but(deployments={VISION: deployment(VISION, device)}).over_git())
    assert device in str(error)


def test_a_gateways_deployment_is_none_of_its_childs():
    refusal(ForeignDevice, STATE.over_git(), TrustPolicy("press-07/camera", allowed()))


# TRUST-14 to TRUST-16


def test_f3_g_v_3_an_older_version_is_refused():
    newest = DeviceState(version=9)
    error = refusal(VersionRollback, DeviceState(version=8).over_git(), floor=newest.floor)
    assert "8" in error.what
    assert "9" in error.what


def test_f3_an_older_version_is_refused_over_http_too():
    floor = replace(DeviceState(version=9).floor, commit=None)
    refusal(VersionRollback, DeviceState(version=8).over_http(), UNSIGNED, floor)


def test_f3_g_v_4_an_equal_version_with_other_content_is_refused():
    other = STATE.but(deployments={VISION: deployment(VISION, greeting="Goodbye")})
    refusal(VersionReused, other.over_git(), floor=STATE.floor)


def test_f3_an_equal_version_with_the_same_manifest_is_the_same_state():
    assert judge(STATE.over_git(), SIGNED, STATE.floor).floor == STATE.floor


def test_f3_g_v_6_a_version_beyond_2_to_the_53_keeps_every_digit():
    floor = DeviceState(version=TWO_TO_53 + 1).floor
    # As doubles these versions are equal to the floor's, or to each other's.
    refusal(VersionRollback, DeviceState(version=TWO_TO_53).over_git(), floor=floor)
    follower = DeviceState(version=TWO_TO_53 + 2, parents=(floor.commit,))
    assert judge(follower.over_git(), SIGNED, floor).floor.version == 9_007_199_254_740_994


def test_f3_the_last_version_is_2_to_the_64_minus_1():
    last = DeviceState(version=LAST_VERSION)
    assert judge(last.over_git(), SIGNED, None).floor.version == 18_446_744_073_709_551_615
    refusal(VersionRollback, DeviceState(version=LAST_VERSION - 1).over_git(), floor=last.floor)


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "1e3", "18446744073709551616", '"1"', "true", "null", "NaN"])
def test_f3_a_version_that_is_no_unsigned_64_bit_integer_is_refused(version):
    manifest = f'{{"manifestVersion":{version},"bundle":null,"deployments":[]}}'.encode()
    state = STATE.but(deployments={}, manifest_text=manifest)
    refusal(StateDocumentInvalid, state.over_git())
    refusal(StateDocumentInvalid, state.over_http(), UNSIGNED)


def test_f13_a_desired_version_that_goes_down_leaves_the_floor_where_it_was():
    newer = STATE.next()
    floor = judge(newer.over_git(), SIGNED, STATE.floor).floor
    refusal(VersionRollback, STATE.over_git(), floor=floor)
    assert judge(newer.next().over_git(), SIGNED, floor).floor.version == 3


def test_f13_content_goes_back_only_under_a_new_version():
    changed = STATE.next(deployments={VISION: deployment(VISION, greeting="Goodbye")})
    reverted = changed.next(deployments=STATE.deployments)
    trusted = judge(reverted.over_git(), SIGNED, changed.floor)
    assert trusted.floor.version == 3
    assert trusted.snapshot.deployments == STATE.deployments


def test_f27_g_v_5_a_rewritten_history_is_refused():
    rewritten = STATE.but(version=2, parents=("4" * 40,))
    error = refusal(HistoryRewritten, rewritten.over_git(), floor=STATE.floor)
    assert STATE.commit_id in str(error)
    assert "4" * 40 in str(error)


def test_f27_a_history_begun_anew_is_refused():
    refusal(HistoryRewritten, STATE.but(version=2).over_git(), floor=STATE.floor)


def test_f27_history_rewritten_under_an_unchanged_manifest_shows_at_the_next_version():
    resigned = STATE.but(committed_at=RENDERED_AT + 1)
    floor = judge(resigned.over_git(), SIGNED, STATE.floor).floor
    assert floor == STATE.floor
    refusal(HistoryRewritten, resigned.next().over_git(), floor=floor)


def test_f27_a_merge_that_keeps_the_trusted_commit_among_its_parents_is_believed():
    merged = STATE.but(version=2, parents=("4" * 40, STATE.commit_id))
    assert judge(merged.over_git(), SIGNED, STATE.floor).floor.version == 2


def test_a_device_that_was_offline_skips_versions():
    assert judge(STATE.but(version=5, parents=("4" * 40,)).over_git(), SIGNED, STATE.floor).floor.version == 5


def test_a_floor_without_a_commit_learns_it_from_the_same_state():
    floor = replace(STATE.floor, commit=None)
    assert judge(STATE.over_git(), SIGNED, floor).floor == STATE.floor


def test_a_floor_keeps_its_commit_when_the_same_state_comes_without_one():
    assert judge(STATE.over_http(), UNSIGNED, STATE.floor).floor == STATE.floor


def test_a_floor_without_a_commit_cannot_ask_for_history():
    floor = replace(STATE.floor, commit=None)
    assert judge(STATE.but(version=2).over_git(), SIGNED, floor).floor.version == 2


def test_a_policy_may_set_a_lowest_version_for_a_device_that_lost_its_floor():
    policy = replace(SIGNED, minimum_version=5)
    refusal(VersionRollback, DeviceState(version=4).over_git(), policy)
    judge(DeviceState(version=5).over_git(), policy, None)


# Whatever comes


NAMES = st.sampled_from([VISION, GREETER, VISION.upper(), "", "..", "a/b", "\ud800"]) | st.text(max_size=5)
CONTENTS = st.sampled_from([STATE.manifest_bytes, *STATE.deployments.values(), b"{}", b"[]", b"id: 1\n"]) | st.binary()
SNAPSHOTS = st.builds(
    Snapshot,
    manifest=CONTENTS,
    deployments=st.dictionaries(NAMES, CONTENTS, max_size=3),
    commit=st.none() | st.just(STATE.commit) | st.binary(),
    revision=st.just(""),
)


@given(SNAPSHOTS, st.sampled_from([SIGNED, UNSIGNED]))
def test_whatever_comes_is_refused_by_name_or_is_what_the_renderer_wrote(snapshot, policy):
    try:
        trusted = judge(snapshot, policy, None)
    except TrustRefused:
        return
    assert trusted.snapshot.manifest == STATE.manifest_bytes
    assert trusted.snapshot.deployments == STATE.deployments


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.sampled_from(["Hello", "Goodbye"])), max_size=12))
def test_f3_no_sequence_of_states_lowers_the_floor_or_gives_a_version_two_contents(offers):
    floor = None
    contents = {}
    for version, by_git, greeting in offers:
        state = DeviceState(version=version, deployments={VISION: deployment(VISION, greeting=greeting)}, key=None)
        before = floor
        try:
            floor = judge(state.over_git() if by_git else state.over_http(), UNSIGNED, before).floor
        except TrustRefused:
            assert floor == before
            continue
        assert before is None or floor.version >= before.version
        assert contents.setdefault(version, greeting) == greeting


def test_a_signed_commit_is_not_signed_again():
    with pytest.raises(ValueError, match="signed already"):
        sign_commit(STATE.commit, RENDERER)


def test_a_state_of_another_manager_may_hold_what_the_standard_leaves_open() -> None:
    manifest = b'{"manifestVersion":1,"bundle":null,"deployments":[],"x":1}'
    state = judge(Snapshot(manifest, {}, None, "r"), TrustPolicy(DEVICE, None), None)
    assert state.manifest.manifest_version == 1

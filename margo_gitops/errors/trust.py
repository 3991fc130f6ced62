"""MG15xx: trust."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class TrustRefused(MargoGitopsError):
    """Base of every reason to distrust a snapshot: it is rejected whole, and what runs keeps running.

    Each is recorded as a security event. Never answer one by weakening the device's policy: find out first how such a
    state came to be served.
    """

    code = "MG1500"
    exit_code = ExitCode.TRUST


class SignatureMissing(TrustRefused):
    """The state is not signed, but this device accepts signed state only.

    Render with `--signing-key`, and set `spec.signing.required` in the fleet so that it cannot be forgotten. If every
    render is signed, somebody else wrote the branch.
    """

    code = "MG1501"


class SignatureInvalid(TrustRefused):
    """The signature does not belong to these bytes, or is no SSH signature.

    The commit was changed after it was signed, or signed by a program that signs in another way (GPG, X.509). Compare
    it with the state repo: `git log --show-signature`.
    """

    code = "MG1502"


class SignerUnknown(TrustRefused):
    """The state is signed by a key that is not in the device's allowed-signers list, or not allowed for this use.

    The message shows the key's fingerprint. If it is the renderer's new key, add its line to the list on the device; if
    nobody knows it, somebody else wrote the branch. A line may limit its key to some uses (`namespaces`, which must
    take in `git`) and to a time.
    """

    code = "MG1503"


class VersionRollback(TrustRefused):
    """The manifest version is lower than one this device has already trusted.

    An old state is served: a server restored from a backup, a stale mirror, or an attack. Put the state repo back to
    its latest commit. To go back on purpose, revert in the fleet repo: the revert renders to a higher version.
    """

    code = "MG1504"


class VersionReused(TrustRefused):
    """The manifest version was already used for other content.

    Two renders started from the same state, or a branch was rewritten. Put the state repo back to the commit that the
    device trusts, then render again: the next version is higher.
    """

    code = "MG1505"


class HistoryRewritten(TrustRefused):
    """The commit is no child of the one this device trusts, although its version says so.

    The device's branch was rewritten, or written by somebody else. Put it back to the renderer's commits, and protect
    it.
    """

    code = "MG1506"


class DigestMismatch(TrustRefused):
    """Bytes do not have the digest that the manifest, or the commit, states for them.

    They were damaged or changed on their way or on the server. `git fsck` on the server tells which; a good clone of
    the state repo mends it.
    """

    code = "MG1507"


class ContentMismatch(TrustRefused):
    """The files of a snapshot are not exactly the ones its manifest lists.

    A file is missing or too many: no render wrote this. Put the branch back to the renderer's last commit.
    """

    code = "MG1508"


class ForeignDevice(TrustRefused):
    """The state is meant for another device.

    The agent's `device` names another device than its source serves, or somebody mixed up branches. Compare the agent's
    configuration with the fleet repo.
    """

    code = "MG1509"


class Oversized(TrustRefused):
    """A snapshot exceeds the bounds on the number or size of its documents.

    The bounds keep a bad server from filling the disk. A state that is meant to be so large belongs onto several
    devices, or its content into artifacts.
    """

    code = "MG1510"


class StateDocumentInvalid(TrustRefused):
    """The manifest or a deployment of a snapshot does not follow its contract.

    The renderer checks what it writes, so either a newer renderer wrote it than this agent understands, or none did.
    Compare the `Rendered-By` trailer with the agent's version; `margo-gitops document check FILE` shows every finding.
    """

    code = "MG1511"


class AllowedSignersInvalid(MargoGitopsError):
    """The list of keys that may sign state cannot be used.

    A line is not in the form that ssh-keygen(1) gives under ALLOWED SIGNERS, names a certificate authority or a key of
    a type that is not accepted, or the list is empty. Each finding names its line and column. No state is judged with a
    list that is only partly understood.
    """

    code = "MG1512"
    exit_code = ExitCode.USAGE

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class CommitInvalid(TrustRefused):
    """The commit of a snapshot is none that a renderer writes.

    It is malformed, larger than a commit may be, or its trailers are missing or contradict the manifest.
    """

    code = "MG1513"


class FreshnessInvalid(TrustRefused):
    """A proof of freshness is none: it is malformed, too large, or its hashes do not lead to what was signed.

    It was damaged or changed on its way, or made by something else than `margo-gitops`. Fetch it again; make it again
    with `margo-gitops freshness renew`. What the device held before stays in force until it expires.
    """

    code = "MG1520"


class FreshnessForeign(TrustRefused):
    """A proof of freshness speaks of another fleet, or of other devices.

    The source serves another fleet's state repo, a file was carried to the wrong device, or somebody shows this device
    a statement that was not made for it. Compare the fleet's name with the `Fleet` trailer of the state's commit.
    """

    code = "MG1521"


class FreshnessRollback(TrustRefused):
    """A proof of freshness is older than the one this device holds.

    A stale mirror or a server restored from a backup, or somebody who shows an old statement on purpose. Renew the
    statement; if that does not help, find out what the device's source really serves.
    """

    code = "MG1522"


class FreshnessContradicted(TrustRefused):
    """The signed statement names other content for a version than the state that is offered.

    Two states of one version exist, and only one of them is the fleet's: somebody forged or reused a version. Compare
    the manifest's digest with the state repo's; then render again, which takes the next version.
    """

    code = "MG1523"


class StateNotFresh(TrustRefused):
    """A state was not taken because nothing proves that it is the newest, and this device wants proof.

    The agent's configuration says `freshness.onExpiry: hold`. What runs keeps running. Renew the statement with
    `margo-gitops freshness renew`, or carry one to the device: `margo-gitops freshness export` and `margo-gitops agent
    freshness import`. A device whose clock is wrong cannot tell: set its clock.
    """

    code = "MG1524"


class FreshnessMissing(MargoGitopsError):
    """There is no statement of freshness where one was looked for.

    A state repo has one as soon as `margo-gitops render --freshness-key` or `margo-gitops freshness renew` has made
    it; a device, as soon as it has fetched or imported one.
    """

    code = "MG1525"

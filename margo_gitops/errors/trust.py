"""MG15xx: trust."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class TrustRefused(MargoGitopsError):
    """Base of every reason to distrust a snapshot.

    The agent rejects the whole snapshot and records a security event; workloads keep running. Never respond by
    weakening the device's policy. First find out why such a state was served.
    """

    code = "MG1500"
    exit_code = ExitCode.TRUST


class SignatureMissing(TrustRefused):
    """The state is not signed, but this device accepts only signed state.

    Render with `--signing-key`, and set `spec.signing.required` in the fleet so that no render forgets it. If every
    render is signed, someone else wrote the branch.
    """

    code = "MG1501"


class SignatureInvalid(TrustRefused):
    """The signature does not belong to these bytes, or is not an SSH signature.

    The commit was changed after it was signed, or a program signed it in another way (GPG, X.509). Compare it with the
    state repo: `git log --show-signature`.
    """

    code = "MG1502"


class SignerUnknown(TrustRefused):
    """The state is signed by a key that is not in the device's allowed-signers list, or not allowed for this use.

    The message shows the key's fingerprint. If it is the renderer's new key, add its line to the list on the device. If
    you do not know the key, someone else wrote the branch. A line can limit its key to some uses (`namespaces`, which
    must include `git`) and to a period of time.
    """

    code = "MG1503"


class VersionRollback(TrustRefused):
    """The manifest version is lower than one that this device has already trusted.

    The source serves an old state. Possible causes: a server restored from a backup, a stale mirror, or an attack. Put
    the state repo back to its latest commit. To go back on purpose, revert in the fleet repo: the revert renders to a
    higher version.
    """

    code = "MG1504"


class VersionReused(TrustRefused):
    """The manifest version was already used for other content.

    Two renders started from the same state, or someone rewrote a branch. Put the state repo back to the commit that the
    device trusts, then render again: the next version is higher. If that commit is lost, name a version above all that
    devices have seen: [recover a lost state repo](trust.md#recover-a-lost-state-repo).
    """

    code = "MG1505"


class HistoryRewritten(TrustRefused):
    """The commit is not a child of the commit that this device trusts, although its version says so.

    Someone other than the renderer wrote or rewrote the device's branch, or a backup is older than what the device
    holds. Put it back to the renderer's commits, and protect it. If they are lost, name a version above all that
    devices have seen: [recover a lost state repo](trust.md#recover-a-lost-state-repo).
    """

    code = "MG1506"


class DigestMismatch(TrustRefused):
    """Bytes do not have the digest that the manifest or the commit gives for them.

    The bytes were damaged or changed on the way or on the server. `git fsck` on the server shows which; a good clone of
    the state repo repairs it.
    """

    code = "MG1507"


class ContentMismatch(TrustRefused):
    """The files of a snapshot are not exactly the files that its manifest lists.

    A file is missing, or there is one too many: no render wrote this. Put the branch back to the renderer's last
    commit.
    """

    code = "MG1508"


class ForeignDevice(TrustRefused):
    """The state is meant for another device, or comes from another fleet.

    The source serves another device than the agent's `device` names, or another fleet with the same key and a device of
    the same name, or someone confused two branches. Compare the agent's configuration with the fleet repo.
    """

    code = "MG1509"


class Oversized(TrustRefused):
    """A snapshot exceeds the bounds on the number or size of its documents.

    The bounds prevent a bad server from filling the disk. If a state must be so large, spread it over several devices,
    or move its content to artifacts.
    """

    code = "MG1510"


class StateDocumentInvalid(TrustRefused):
    """The manifest or a deployment of a snapshot does not follow its contract.

    The renderer checks what it writes. So a renderer that is newer than this agent wrote it, or another program did.
    Compare the `Rendered-By` trailer with the agent's version. `margo-gitops document check FILE` shows every finding.
    """

    code = "MG1511"


class AllowedSignersInvalid(MargoGitopsError):
    """The list of keys that may sign state cannot be used.

    The list cannot be read, is empty, or a line is not in the format of ALLOWED SIGNERS in ssh-keygen(1). Certificate
    authorities and some key types are not accepted either. Each finding names its line and column. The agent never uses
    a list that it understands only partly.
    """

    code = "MG1512"
    exit_code = ExitCode.USAGE

    def __init__(
        self, what: str, findings: Sequence[Finding], *, where: Location | None = None, remedy: str = ""
    ) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings], remedy=remedy)
        self.findings = tuple(findings)


class CommitInvalid(TrustRefused):
    """The commit of a snapshot is not one that a renderer writes.

    It is malformed or larger than a commit may be, or its trailers are missing or contradict the manifest.
    """

    code = "MG1513"


class FreshnessInvalid(TrustRefused):
    """A proof of freshness is malformed or too large, or its hashes do not lead to what was signed.

    It was damaged or changed on the way, or another program made it. Fetch it again, or make a new one with
    `margo-gitops freshness renew`. The proof that the device held before stays in force until it expires.
    """

    code = "MG1520"


class FreshnessForeign(TrustRefused):
    """A proof of freshness is about another fleet, or about other devices.

    Possible causes: the source serves another fleet's state repo, someone carried a file to the wrong device, or
    someone shows this device a statement for other devices. Compare the fleet's name with the `Fleet` trailer of the
    state's commit.
    """

    code = "MG1521"


class FreshnessRollback(TrustRefused):
    """A proof of freshness is older than the one that this device holds.

    Possible causes: a stale mirror, a server restored from a backup, or someone who shows an old statement on purpose.
    Renew the statement. If that does not help, find out what the device's source really serves.
    """

    code = "MG1522"


class FreshnessContradicted(TrustRefused):
    """The signed statement names other content for a version than the state that is offered.

    Two states have the same version, and only one of them is the fleet's: someone forged or reused a version. Compare
    the manifest's digest with the state repo's. Then render again, which takes the next version.
    """

    code = "MG1523"


class StateNotFresh(TrustRefused):
    """The device did not take a state, because nothing proves that it is the newest.

    The agent's configuration says `freshness.onExpiry: hold`. Workloads keep running. Renew the statement with
    `margo-gitops freshness renew`, or carry one to the device: `margo-gitops freshness export` and `margo-gitops agent
    freshness import`. A device whose clock is wrong cannot check the proof: set its clock.
    """

    code = "MG1524"


class FreshnessMissing(MargoGitopsError):
    """There is no freshness statement.

    A state repo has one after `margo-gitops render --freshness-key` or `margo-gitops freshness renew` has made it. A
    device has one after it has fetched or imported it.
    """

    code = "MG1525"


class TrustDocumentInvalid(TrustRefused):
    """A trust document cannot be read, or is not one.

    The file `keys/<version>.json` was damaged or edited by hand, or another program made it. The message names each
    field. Never edit these files: `margo-gitops keys` writes them.
    """

    code = "MG1530"


class TrustDocumentUnsigned(TrustRefused):
    """Too few root keys signed a trust document.

    Each version needs the signatures of enough root keys of the version before, and of enough of its own. The message
    says how many are missing. `margo-gitops keys status` shows who has not signed yet; they sign with
    `margo-gitops keys sign`. If all have signed, the document was changed afterwards.
    """

    code = "MG1531"


class TrustDocumentForeign(TrustRefused):
    """A trust document belongs to another fleet.

    The source serves another fleet's state, or a person carried a file to the wrong device.
    """

    code = "MG1532"


class TrustDocumentGap(TrustRefused):
    """A trust document is not the next version after the one that is held.

    Versions are followed one by one, because each is signed by the keys of the one before. Fetch or carry the versions
    between them first: they are all in the state repo's branch `trust` and in `keys/` of the fleet repo.
    """

    code = "MG1533"


class TrustDocumentRollback(TrustRefused):
    """A trust document is older than the one that is held, or has its version with other content.

    An old document may list keys that were revoked since. The device keeps its newer one. Find out what the source
    serves. Two different documents of one version mean that the root keys signed twice: make the next version.
    """

    code = "MG1534"


class TrustDocumentExpired(TrustRefused):
    """The newest trust document has expired, so no new state is taken by it.

    What runs keeps running. Make the next version with `margo-gitops keys renew`, let the root keys sign it, and
    render. If a newer version exists, find out why it did not reach this device.
    """

    code = "MG1535"


class SigningKeyNotListed(MargoGitopsError):
    """A render would sign with a key that the fleet's trust document does not allow, so devices would refuse it.

    Or `state compact` would sign a checkpoint that no audit believes. Nothing was moved. Sign with a key that the
    newest document, or the list of signers, allows. Or let the root keys sign a version that lists this one:
    `margo-gitops keys add`, `keys sign`. A version that still lacks signatures does not count.
    """

    code = "MG1536"
    exit_code = ExitCode.USAGE


class KeysRefused(MargoGitopsError):
    """A change of the fleet's keys was not written.

    The name or the key is not in the newest trust document, the change would leave too few keys, or devices still
    depend on the key. The message says which.
    """

    code = "MG1537"
    exit_code = ExitCode.USAGE

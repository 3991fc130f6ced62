"""The tree of errors that people meet.

Every error says *what* went wrong, *where* (file, line, column; device), *why*, and what to do next, and carries as
data the exit code a command ends with. The first paragraph of a class docstring is its title in `docs/errors.md`, the
rest is the page's text; a test keeps the two together. Codes are stable: a code is never reused for another meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

MAX_SHOWN = 50
"""How many errors of one run are printed; one mistake can concern ten thousand devices."""


class ExitCode(IntEnum):
    """What a command's exit status means; the same for every command."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    TRANSPORT = 3
    TRUST = 4
    APPLY = 5
    TRY_LATER = 75


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file; `line` and `column` count from 1, as editors do, and are None where only the file is known."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a document.

    Attributes:
        message: what is wrong, and which value is.
        location: where; None for a document that never was in a file.
        path: the field as people write it, `spec.parameters.greeting`; empty for the document itself.
        remedy: what to do next; empty where the message already says it.
        severity: "error" refuses the document, "warning" does not.
        rule: id of the rule that is broken (docs/rules.md); empty where a document breaks its contract.
    """

    message: str
    location: Location | None = None
    path: str = ""
    remedy: str = ""
    severity: str = "error"
    rule: str = ""

    def __str__(self) -> str:
        head = f"{self.location}: " if self.location else ""
        path = f"{self.path}: " if self.path else ""
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{head}{path}{self.message}{tail}"


class MargoGitopsError(Exception):
    """Base of all errors of this project.

    Nobody meets it as such: every error below has a code of its own.
    """

    code: ClassVar[str] = "MG1000"
    exit_code: ClassVar[ExitCode] = ExitCode.FINDINGS

    def __init__(
        self,
        what: str,
        *,
        where: Location | None = None,
        device: str | None = None,
        why: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.device = device
        self.why = tuple(why)
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        lines = [f"{head}{self.what} [{self.code}]", *(f"  {reason}" for reason in self.why)]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


# MG10xx: documents


class InvalidDocument(MargoGitopsError):
    """A document does not follow its contract.

    Each line below the message names one finding with file, line, column, field and remedy. Nothing of the document is
    used until all of them are mended. `margo-gitops document check FILE` shows the same findings for one file.
    """

    code = "MG1001"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class UnreadableDocument(MargoGitopsError):
    """A file is not YAML or JSON that can be read safely.

    Broken syntax, aliases, tags, duplicate keys, several documents in one file, bytes that are not UTF-8, values whose
    meaning differs between YAML 1.1 and 1.2 readers, or a file beyond the bounds on size and depth.
    """

    code = "MG1002"


class UnwritableValue(MargoGitopsError):
    """A value cannot be written so that every reader reads the same value back.

    Numbers that are not finite or need more than 64 bits, and text with lone surrogates.
    """

    code = "MG1003"


class ExtraMissing(MargoGitopsError):
    """A command needs packages that this installation does not have.

    A device installs `margo-gitops` alone. People and pipelines that render install `margo-gitops[operator]`.
    """

    code = "MG1010"
    exit_code = ExitCode.USAGE


class EnvironmentInvalid(MargoGitopsError):
    """An environment variable that starts with `MARGO_` is not known, or has a value that cannot be used.

    A misspelt variable would be ignored in silence otherwise, and the setting it was meant for stay at its default.
    """

    code = "MG1011"
    exit_code = ExitCode.USAGE


# MG11xx: the fleet repo


class FleetInvalid(MargoGitopsError):
    """The fleet repo has documents that do not follow their contract, or do not fit together.

    Each line names one finding with file, line and column. All findings of the repo are shown in one run.
    """

    code = "MG1101"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class NoFleetRepo(MargoGitopsError):
    """There is no fleet repo here: no git repository with a `margo-gitops.yaml` in its root.

    Change into one, name it with `--fleet`, or make one with `margo-gitops init DIR`.
    """

    code = "MG1102"
    exit_code = ExitCode.USAGE


class PackageInvalid(MargoGitopsError):
    """An application package cannot be used.

    Its folder holds no `margo.yaml`, its description or resources have findings, or it holds links or special files.
    """

    code = "MG1103"
    findings: tuple[Finding, ...] = ()


class PackageExists(MargoGitopsError):
    """This version of the application is already in the fleet repo, with other content.

    A version is published once. Raise the version in the package, or pass --replace to overwrite it.
    """

    code = "MG1104"


class ScaffoldRefused(MargoGitopsError):
    """A fleet repo cannot be scaffolded there: the folder holds something, or cannot be written.

    Name a folder that does not exist yet or is empty. Nothing of what is there was touched.
    """

    code = "MG1105"
    exit_code = ExitCode.USAGE


# MG12xx: rendering


class RenderingRefused(MargoGitopsError):
    """The intent cannot be rendered; every reason found is listed, and nothing was written.

    Each reason has a code and a page of its own. Mend them in the fleet repo, commit, and render again; devices keep
    the state they have.
    """

    code = "MG1200"

    def __init__(self, what: str, errors: Sequence[MargoGitopsError]) -> None:
        super().__init__(what)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors[:MAX_SHOWN]]
        if len(self.errors) > MAX_SHOWN:
            shown.append(f"and {len(self.errors) - MAX_SHOWN} more")
        return "\n".join([super().__str__(), *shown])


class NotPlaceable(MargoGitopsError):
    """A device that a deployment selects can run none of the application's profiles.

    Capacity is checked before eligibility rules, as Margo demands. Take the device out of `spec.placement`, add a
    profile that fits, or correct the device's capabilities.
    """

    code = "MG1201"


class AmbiguousProfile(MargoGitopsError):
    """A device could run several profiles, and the deployment prefers none.

    Name the profiles in `spec.profiles`, best first. A guess would change when the supplier adds a third.
    """

    code = "MG1202"


class TemplateInvalid(MargoGitopsError):
    """An expression in a parameter cannot be evaluated.

    Broken syntax, a statement instead of an expression, a name that is not defined, an operation that fails, or a
    result that no parameter can hold.
    """

    code = "MG1203"


class ParameterInvalid(MargoGitopsError):
    """A parameter's value breaks a rule of the application's own configuration schema, or may not change any more.

    The message names the layer, file and line that the value comes from, and what the application wants there. Correct
    the value; `margo-gitops explain DEVICE DEPLOYMENT` shows all layers. A setting that the application calls immutable
    keeps the value it was installed with: put that back, or add the deployment anew under another name.
    """

    code = "MG1204"


class ParameterMissing(MargoGitopsError):
    """A parameter that the application needs has no value in any layer.

    Give it one in `spec.parameters` of the deployment, an overlay, the site or the device.
    """

    code = "MG1205"


class ReferenceUnknown(MargoGitopsError):
    """A document names something that does not exist.

    An application, device, site, profile, deployment or parameter. The message says which names are known.
    """

    code = "MG1206"
    kind = ""  # what the name was to be the name of: "site", "device" ...


# MG13xx: the state repo


class StateRepoUnusable(MargoGitopsError):
    """The state repo cannot be opened, created or written.

    It must be a bare git repository that the renderer may write, on a disk with space left; `margo-gitops render` makes
    it where there is nothing. Nothing was moved.
    """

    code = "MG1301"
    exit_code = ExitCode.USAGE


class StateMoved(MargoGitopsError):
    """Somebody else moved a ref of the state repo while this render was running; nothing was written.

    Run the render again: it starts from the new state.
    """

    code = "MG1302"
    exit_code = ExitCode.TRY_LATER


class StateTampered(MargoGitopsError):
    """The state repo holds what no render wrote: a device branch that differs from the fleet branch.

    Only the renderer writes the state repo. Find out who moved the branch (`git reflog`, the server's audit log), put
    it back to the renderer's last commit of this device (docs/state-repo.md shows how to find it), and protect the
    branch.
    """

    code = "MG1303"
    exit_code = ExitCode.TRUST


class StateDiffers(MargoGitopsError):
    """The state repo is not what this fleet commit renders to (`render --check`).

    Either the commit was not rendered yet, or the state repo was rendered from another one. Each difference is listed;
    `margo-gitops render` makes them equal.
    """

    code = "MG1304"


class SigningKeyUnusable(MargoGitopsError):
    """The signing key cannot be used, or none was given where the fleet wants signed state.

    The file cannot be read, others can read it, or it is encrypted or no ed25519 key.
    """

    code = "MG1305"
    exit_code = ExitCode.USAGE


class StateUnreachable(MargoGitopsError):
    """The remote state repo cannot be fetched or pushed.

    Network, credentials, rights, or a server without atomic pushes; the last lines that git said are shown. Nothing was
    changed there. See that `git ls-remote URL` works for the same user, then render again.
    """

    code = "MG1306"
    exit_code = ExitCode.TRANSPORT


class FleetCommitUnknown(MargoGitopsError):
    """The revision of the fleet repo that was asked for does not exist.

    Name a branch, a tag or a commit id of this repository. A shallow clone lacks older commits; a new repository has
    none before the first one is made.
    """

    code = "MG1307"
    exit_code = ExitCode.USAGE


class FleetCommitOlder(MargoGitopsError):
    """The state repo was rendered from a commit that the one to render does not build on.

    A slow pipeline of an older commit must not undo a newer one, and a side branch is nothing to render. A shallow
    clone cannot tell: fetch the whole history (`fetch-depth: 0` in many pipelines). To go back, revert the change in
    the fleet repo: the revert is a new commit, and versions only go up.
    """

    code = "MG1308"


class StateForeign(MargoGitopsError):
    """The state repo belongs to another fleet, or was not written by this renderer.

    Every deployment would get another id there: all workloads of all devices would be removed and installed anew. Name
    the right state repo, or a new folder.
    """

    code = "MG1309"
    exit_code = ExitCode.USAGE


# MG14xx: transport


class TransportError(MargoGitopsError):
    """Base of what goes wrong between the device and the state: retrying later is sensible.

    What runs on the device keeps running; the agent tries again by itself.
    """

    code = "MG1400"
    exit_code = ExitCode.TRANSPORT


class SourceUnreachable(TransportError):
    """The source of desired state cannot be reached.

    Name resolution, connection, TLS handshake, proxy or a time-out. What runs on the device keeps running; the agent
    tries again at its next poll.
    """

    code = "MG1401"


class SourceRefused(TransportError):
    """The source answered, and refused.

    Wrong or missing credentials, a repository or ref that does not exist or that this identity may not see, or an HTTP
    status that is not a success.
    """

    code = "MG1402"


class SourceMisbehaved(TransportError):
    """The source answered with something outside the git subset or its bounds.

    A malformed packet, a pack that is truncated, too large or holds what a device tree may not hold (links, executable
    files, other names), or a redirect. Nothing of the answer is used.
    """

    code = "MG1403"


class SourceMisconfigured(TransportError):
    """The settings of the source of desired state cannot work.

    A URL with credentials in it or of an unknown kind, a token or certificate file that cannot be read, settings that
    contradict each other, or a token that would travel unencrypted. Nothing was sent.
    """

    code = "MG1404"
    exit_code = ExitCode.USAGE


class SourceBusy(TransportError):
    """The source asks to come back later.

    HTTP status 429 or 503. What runs on the device keeps running; the agent waits at least as long as the source asks
    for in its `Retry-After` header, or as its own backoff says where there is none.
    """

    code = "MG1405"

    def __init__(self, what: str, *, retry_after: float | None = None, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


# MG15xx: trust


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


# MG16xx: apply


class ApplyError(MargoGitopsError):
    """Base of what goes wrong when a workload is installed, updated or removed.

    `reinstated` says whether what ran before runs again (or still).
    """

    code = "MG1600"
    exit_code = ExitCode.APPLY
    reinstated = True


class EngineUnavailable(ApplyError):
    """The engine that runs workloads does not answer.

    Start it, and see that the agent's user may talk to it. What runs keeps running; the agent tries again at its next
    poll.
    """

    code = "MG1601"
    exit_code = ExitCode.APPLY


class ArtifactUnavailable(ApplyError):
    """The content of a component cannot be fetched.

    The URL comes from `spec.artifacts.baseUrl` of the fleet, or from the application. See that the device reaches it
    and that the file is there. What runs keeps running; the agent tries again after a pause that doubles each time, up
    to an hour, and at once when asked with SIGHUP.
    """

    code = "MG1602"


class ArtifactRefused(ApplyError):
    """The content of a component is not what was promised, or not safe to unpack.

    Its digest differs, it is larger than allowed, or the archive holds links out of its folder, absolute paths or other
    things that a compose archive may not hold (Margo application registry, compose archive).
    """

    code = "MG1603"


class InstallFailed(ApplyError):
    """A workload did not start, or did not become healthy in time.

    The message ends with what the engine said. Correct the parameter or the application. What ran before runs again
    where that was possible; then the update is quarantined, and tried again only when its content changes or somebody
    asks (SIGHUP, `margo-gitops agent once --retry`). Where nothing ran before, the agent tries again after a pause.
    """

    code = "MG1604"


class RemoveFailed(ApplyError):
    """A workload could not be removed completely.

    Something still uses it, or the engine refused; the message ends with what it said. The agent tries again after a
    pause.
    """

    code = "MG1605"


class WorkloadUnsupported(ApplyError):
    """The deployment asks for something that this device's appliers cannot do.

    A component without content, a pointer that the applier does not know, or a name that something else on the device
    has taken. The remedy in the message says which; what runs keeps running.
    """

    code = "MG1606"


class ComposeInvalid(ApplyError):
    """The compose file of a component cannot be used.

    There is none, Compose refuses it with the deployment's parameters, or it keeps data in a relative folder that the
    next update would lose. Nothing that runs was touched.
    """

    code = "MG1607"


class ApplierUnusable(ApplyError):
    """An applier is not installed, cannot be loaded, or its settings cannot work.

    The message lists the appliers that are installed. Install the missing package, or correct `appliers` in the agent's
    configuration.
    """

    code = "MG1608"
    exit_code = ExitCode.USAGE


class StorageFailed(ApplyError):
    """The applier's folder cannot be written: the disk is full, read-only or broken.

    Nothing half done was kept. Free some space, or give the agent another folder; the step then works as it is.
    """

    code = "MG1609"


# MG17xx: the agent


class AgentMisconfigured(MargoGitopsError):
    """The agent's configuration cannot be used.

    A key that is not known, a value outside its bounds, settings that contradict each other, an environment variable
    that starts with `MARGO_` and means nothing, or a file that the configuration names and that cannot be read. Nothing
    was started; what runs on the device keeps running.
    """

    code = "MG1701"
    exit_code = ExitCode.USAGE


class AgentBusy(MargoGitopsError):
    """Another agent works with this state folder.

    One device has one agent at a time. `agent run` holds the folder as long as it lives; send it SIGHUP to poll now.
    """

    code = "MG1702"
    exit_code = ExitCode.TRY_LATER


class StateFolderUnusable(MargoGitopsError):
    """The agent's state folder cannot be created, read or written, or belongs to another device.

    The trust floor of one device means nothing for another: give each device a state folder of its own.
    """

    code = "MG1703"
    exit_code = ExitCode.USAGE


class StorageFull(MargoGitopsError):
    """The disk is full: new state could not be stored.

    What was stored before is whole, and what runs keeps running. The agent tries again at its next poll.
    """

    code = "MG1704"
    exit_code = ExitCode.APPLY


class StoredStateDamaged(MargoGitopsError):
    """What lies in the state folder is not what was trusted and stored.

    A disk fault, or somebody changed files by hand. The agent treats it as "nothing held" and fetches the state again
    with its next poll; the trust floor still holds. `agent verify` shows this error.
    """

    code = "MG1705"
    exit_code = ExitCode.TRUST


class NothingHeld(MargoGitopsError):
    """The device holds no state yet: no poll has succeeded since the state folder was made.

    `margo-gitops agent once` polls and says what stands in the way.
    """

    code = "MG1706"


class DeploymentUnusable(ApplyError):
    """A trusted deployment cannot be turned into workloads.

    It waits for a deployment that is not on this device, or for itself through others; two of its parameters write the
    same place; its artifacts name components it does not have; or no configured applier serves its profile type. The
    other deployments are applied; what runs of this one keeps running.
    """

    code = "MG1707"


class DependencyNotInstalled(ApplyError):
    """A deployment waits, because one that must be installed before it is not installed.

    Nothing of it was changed. It is installed as soon as the deployment it waits for is.
    """

    code = "MG1708"


class AgentDefect(MargoGitopsError):
    """The agent met an error that it does not know.

    This is a defect of the agent: report it, with the log. The agent goes on with its next poll.
    """

    code = "MG1709"
    exit_code = ExitCode.APPLY


class ApplierDefect(ApplyError):
    """An applier ended with an error that its contract does not know.

    This is a defect of the applier, perhaps of a plug-in: report it to its makers, with the log. Other deployments go
    on.
    """

    code = "MG1710"


class DeviceIneligible(ApplyError):
    """This device may not, or cannot, run the deployment.

    Its profile names eligibility rules or capacity that the device's capabilities do not meet, or rules while the agent
    has no capabilities of that device: a device evaluates the rules itself before it deploys (Margo device
    constraints). Nothing of it was changed. Place the deployment elsewhere, or correct the capabilities.
    """

    code = "MG1711"


class StepInterrupted(ApplyError):
    """A step was left because the agent was asked to stop.

    Nothing has failed: the step is taken up again when the agent starts.
    """

    code = "MG1712"


# MG19xx: publishing


class PublishTargetUnusable(MargoGitopsError):
    """The target of publishing cannot be read or written.

    A folder that holds other files, a full disk, missing rights, a bucket that refuses. At any moment every published
    manifest finds what it leads to: publish again once the cause is gone.
    """

    code = "MG1901"
    exit_code = ExitCode.USAGE


class PublishBusy(MargoGitopsError):
    """Another publisher works on this target.

    Let it finish, then publish again: a run that finds nothing new writes nothing.
    """

    code = "MG1902"
    exit_code = ExitCode.TRY_LATER


class PublishDiffers(MargoGitopsError):
    """The target is not what the state repo holds (`publish --check`).

    It was not published since the last render, or somebody changed published files. Each difference is listed;
    `margo-gitops publish` makes them equal, except for files that hold other bytes than their names say: remove those
    first.
    """

    code = "MG1903"


class PublishGoesBack(MargoGitopsError):
    """The target is ahead of the state repo, or holds another manifest of the same version; nothing was published.

    Devices refuse a manifest whose version does not go up. Most often the state repo was restored from an old backup:
    restore it to its newest state, or render again until its versions are above the published ones.
    """

    code = "MG1904"
    exit_code = ExitCode.TRUST


# MG18xx: the server, and from MG1820 on the audit


class ServerMisconfigured(MargoGitopsError):
    """The server's configuration, or a file that it names, cannot be used.

    Each line names a mistake with its place. The server does not start. A list of tokens or of accepted clients that
    gets a mistake while the server runs is not taken over: what held before holds on, and the log says so.
    """

    code = "MG1801"
    exit_code = ExitCode.USAGE


class ServerBusy(MargoGitopsError):
    """Another server works with the same folder of reports.

    One journal has one writer. Give each server a folder of its own, and let one of them alone take reports.
    """

    code = "MG1802"
    exit_code = ExitCode.TRY_LATER


class ReportsUnusable(MargoGitopsError):
    """The journal of reports cannot be read or written.

    A report is acknowledged once it is on disk; without a disk none is. Reading the state goes on.
    """

    code = "MG1803"
    exit_code = ExitCode.USAGE


class AuditFailed(MargoGitopsError):
    """The state repo's history is not what the fleet repo's commits render to.

    The first bad commit is named, with the branch, the file, and what is expected and found there. Nothing after it was
    looked at. Somebody other than the renderer wrote it, or a ref was moved: find out who, keep a copy of the
    repository as evidence, and restore the branches from a clone that verifies. `docs/audit.md` lists what is checked.
    """

    code = "MG1820"
    exit_code = ExitCode.TRUST


class AuditUnusable(MargoGitopsError):
    """What an audit was asked for is not there: a commit, a device, a time before the first render.

    The message names it, and the remedy says how to list what there is.
    """

    code = "MG1821"
    exit_code = ExitCode.USAGE

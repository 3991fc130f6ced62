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
    """

    message: str
    location: Location | None = None
    path: str = ""
    remedy: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        head = f"{self.location}: " if self.location else ""
        path = f"{self.path}: " if self.path else ""
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{head}{path}{self.message}{tail}"


class MargoGitopsError(Exception):
    """Base of all errors of this project."""

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


# MG14xx: transport


class TransportError(MargoGitopsError):
    """Base of what goes wrong between the device and the state: retrying later is sensible."""

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
    files, other names), or a redirect to another host. Nothing of the answer is used.
    """

    code = "MG1403"


# MG15xx: trust


class TrustRefused(MargoGitopsError):
    """Base of every reason to distrust a snapshot: it is rejected whole, and what runs keeps running."""

    code = "MG1500"
    exit_code = ExitCode.TRUST


class SignatureMissing(TrustRefused):
    """The state is not signed, but this device accepts signed state only."""

    code = "MG1501"


class SignatureInvalid(TrustRefused):
    """The signature does not belong to these bytes, or is no SSH signature."""

    code = "MG1502"


class SignerUnknown(TrustRefused):
    """The state is signed by a key that is not in the device's allowed-signers list, or not allowed for this use."""

    code = "MG1503"


class VersionRollback(TrustRefused):
    """The manifest version is lower than one this device has already trusted."""

    code = "MG1504"


class VersionReused(TrustRefused):
    """The manifest version was already used for other content."""

    code = "MG1505"


class HistoryRewritten(TrustRefused):
    """The commit is no child of the one this device trusts, although its version says so."""

    code = "MG1506"


class DigestMismatch(TrustRefused):
    """Bytes do not have the digest that the manifest, or the commit, states for them."""

    code = "MG1507"


class ContentMismatch(TrustRefused):
    """The files of a snapshot are not exactly the ones its manifest lists."""

    code = "MG1508"


class ForeignDevice(TrustRefused):
    """The state is meant for another device."""

    code = "MG1509"


class Oversized(TrustRefused):
    """A snapshot exceeds the bounds on the number or size of its documents."""

    code = "MG1510"


class StateDocumentInvalid(TrustRefused):
    """The manifest or a deployment of a snapshot does not follow its contract."""

    code = "MG1511"


# MG16xx: apply


class ApplyError(MargoGitopsError):
    """Base of what goes wrong when a workload is installed, updated or removed.

    `reinstated` says whether what ran before runs again (or still).
    """

    code = "MG1600"
    exit_code = ExitCode.APPLY
    reinstated = True


class EngineUnavailable(ApplyError):
    """The engine that runs workloads does not answer."""

    code = "MG1601"
    exit_code = ExitCode.APPLY


class ArtifactUnavailable(ApplyError):
    """The content of a component cannot be fetched."""

    code = "MG1602"


class ArtifactRefused(ApplyError):
    """The content of a component is not what was promised, or not safe to unpack.

    Its digest differs, it is larger than allowed, or the archive holds links out of its folder, absolute paths or other
    things that a compose archive may not hold (Margo application registry, compose archive).
    """

    code = "MG1603"


class InstallFailed(ApplyError):
    """A workload did not start, or did not become healthy in time."""

    code = "MG1604"


class RemoveFailed(ApplyError):
    """A workload could not be removed completely."""

    code = "MG1605"


class WorkloadUnsupported(ApplyError):
    """The deployment asks for something that this device's appliers cannot do."""

    code = "MG1606"

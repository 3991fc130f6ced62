"""MG14xx: transport."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


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


class OnboardingRefused(TransportError):
    """The server of the older contract issues no client id to this device.

    Without one, no path on the server is the device's. The answer's status says why: 401, it did not believe the
    signature, mostly because of the device's clock; 403, it does not accept the certificate; 409, it has issued an id
    for this certificate before, which this device no longer has.
    """

    code = "MG1450"


class ClientIdUnusable(TransportError):
    """The client id that a server of the older contract has issued cannot be read or written.

    It is kept in the state folder. Without it the device would ask for it again at each start, and some servers tell
    it only once.
    """

    code = "MG1451"

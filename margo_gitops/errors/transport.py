"""MG14xx: transport."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class TransportError(MargoGitopsError):
    """Base of what goes wrong between the device and the source of its state.

    Workloads on the device keep running. The agent tries again by itself; retrying makes sense.
    """

    code = "MG1400"
    exit_code = ExitCode.TRANSPORT


class SourceUnreachable(TransportError):
    """The source of desired state cannot be reached.

    Possible causes: name resolution, connection, TLS handshake, proxy or a timeout. Workloads on the device keep
    running; the agent tries again at its next poll.
    """

    code = "MG1401"


class SourceRefused(TransportError):
    """The source refused the request.

    Possible causes: wrong or missing credentials, a repository or ref that does not exist or that this identity may not
    see, or an HTTP status that is not a success.
    """

    code = "MG1402"


class SourceMisbehaved(TransportError):
    """The source's answer breaks the git subset or its bounds.

    Possible causes: a malformed packet, a redirect, or a pack that is truncated or too large. A pack is also refused if
    it contains what a device tree must not contain: links, executable files, other names. Nothing of the answer is
    used.
    """

    code = "MG1403"


class SourceMisconfigured(TransportError):
    """The settings of the source of desired state cannot work.

    Possible causes: a URL that contains credentials or is of an unknown kind, a token or certificate file that cannot
    be read, contradicting settings, or a token that would travel unencrypted. Nothing was sent.
    """

    code = "MG1404"
    exit_code = ExitCode.USAGE


class SourceBusy(TransportError):
    """The source asks the agent to come back later.

    It answered with HTTP status 429 or 503. Workloads on the device keep running. The agent waits at least as long as
    the `Retry-After` header asks; without this header, it uses its own backoff.
    """

    code = "MG1405"

    def __init__(self, what: str, *, retry_after: float | None = None, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


class PushDeclined(TransportError):
    """The git server does not take what the device reports.

    Possible causes: a protected branch, a hook that declines, credentials that may only read, or a repository that is
    full. Nothing is lost: the reports stay on the device, which tries again later, at most once an hour in the end.
    """

    code = "MG1406"


class OnboardingRefused(TransportError):
    """A server of the older contract does not issue a client id to this device.

    Without a client id, the device has no path on the server. The status of the answer says why. 401: the server does
    not accept the signature, most often because the device's clock is wrong. 403: it does not accept the certificate.
    409: it has already issued an id for this certificate, which this device no longer has.
    """

    code = "MG1450"


class ClientIdUnusable(TransportError):
    """The client id from a server of the older contract cannot be read or written.

    The agent keeps the id in its state folder. Without it, the device would ask for it again at each start, and some
    servers give it only once.
    """

    code = "MG1451"

"""MG20xx: registries and what is in them."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError
from margo_gitops.errors.transport import TransportError


class ReferenceInvalid(MargoGitopsError):
    """A reference names no place in a registry.

    It is `oci://host[:port]/repository[:tag][@sha256:…]`. The registry is always named, and the repository is in lower
    case.
    """

    code = "MG2001"
    exit_code = ExitCode.USAGE


class RegistryRefused(TransportError):
    """The registry does not accept the credentials, or does not let them do this.

    Log in with `margo-gitops registry login HOST`; on a device, correct the file of credentials in the agent's
    configuration. The message names the registry that refused. No other host got these credentials.
    """

    code = "MG2002"


class RegistryLacks(TransportError):
    """The registry does not have this repository, version or blob.

    Many registries also answer so where these credentials may not see it. Check the name and the version, and log in.
    """

    code = "MG2003"


class RegistryMisbehaved(TransportError):
    """The registry's answer breaks the distribution standard or a bound.

    Possible causes: a manifest that is too large or not valid, content with another digest than was asked for, a loop
    of redirects, or a redirect that is not encrypted. Nothing of the answer is used.
    """

    code = "MG2004"


class RegistryCredentialsUnusable(TransportError):
    """The credentials for a registry cannot be read or stored.

    Possible causes: a file that is not in the form of Docker's `config.json`, or a credential helper that is missing,
    fails or does not answer.
    """

    code = "MG2005"
    exit_code = ExitCode.USAGE


class PackageUnsigned(MargoGitopsError):
    """What must be signed has no signature in the registry.

    Signatures are looked for as cosign puts them: by the registry's API for referrers, and by tags. Nothing of the
    content is used.
    """

    code = "MG2006"
    exit_code = ExitCode.TRUST


class PackageSignatureRefused(MargoGitopsError):
    """No signature in the registry is by the key that is trusted, for the content that is there.

    Someone else signed it, or the content changed after it was signed. Nothing of the content is used.
    """

    code = "MG2007"
    exit_code = ExitCode.TRUST


class PackageKeyUnusable(MargoGitopsError):
    """The key for signatures of packages cannot be used.

    Signing needs a private key of ECDSA P-256 in PEM form without a passphrase; verifying needs its public key. These
    are the keys that cosign uses.
    """

    code = "MG2008"
    exit_code = ExitCode.USAGE


class VersionPublished(MargoGitopsError):
    """This version of a package or component is in the registry with other content.

    Devices and fleets may use it already, so a version is published once. Raise the version, or replace it on purpose.
    Nothing was pushed.
    """

    code = "MG2009"

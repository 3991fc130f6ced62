"""MG204x: reports and enrolments that a person carries."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class CarriedForged(MargoGitopsError):
    """Reports on a stick are not signed by a key of the device that they name; nothing of them was taken.

    Possible causes: someone changed the file, or the device has a new key that the fleet repo does not name yet.
    Compare the fingerprint with the one that `agent status` shows at the device.
    """

    code = "MG2040"
    exit_code = ExitCode.TRUST


class CarriedForeign(MargoGitopsError):
    """Reports on a stick are of a device that this fleet does not have, or tell of another device; none were taken.

    Import the stick into the fleet that it came from. A device reports on itself and its children, and on no other one.
    """

    code = "MG2041"
    exit_code = ExitCode.TRUST


class CarriedReplayed(MargoGitopsError):
    """Reports on a stick are older than those that were taken before; nothing of them was taken.

    Possible causes: an old stick, or a device whose clock and disk were set back.
    """

    code = "MG2042"
    exit_code = ExitCode.TRUST


class CarriedUnusable(MargoGitopsError):
    """A stick cannot be read or written by the one who carries reports or enrolments.

    Possible causes: it was pulled out, it is full or write-protected, or it has links in it, which are not followed.
    Nothing changed on this machine.
    """

    code = "MG2043"
    exit_code = ExitCode.USAGE

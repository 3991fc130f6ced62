"""MG21xx: editing the fleet repo."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, MargoGitopsError, listed


class EditRefused(MargoGitopsError):
    """A change would make the fleet invalid; nothing was written.

    Each line names a finding that only the change causes, as `margo-gitops validate` would show it. Ask for another
    change, or first fix by hand what prevents this one.
    """

    code = "MG2101"

    def __init__(self, what: str, findings: Sequence[str], *, why: Sequence[str] = ()) -> None:
        super().__init__(what, why=[*listed(findings), *why])


class NotEditable(MargoGitopsError):
    """A command cannot edit this file without losing something in it.

    Commands keep comments, order and layout. If they cannot be sure to, they do not touch the file. Edit it by hand.
    """

    code = "MG2102"


class EditImpossible(MargoGitopsError):
    """The requested change is not possible: a name is taken, is missing, or could mean several things.

    The message lists the names that exist. Nothing was written.
    """

    code = "MG2103"
    exit_code = ExitCode.USAGE


class SelectorInvalid(MargoGitopsError):
    """The value of `--to` is not a selector.

    A selector is `all`, `device=ID`, or conditions that must all hold, separated by commas. Conditions: `line=3`,
    `site=north`, `line!=3`, `line in (1, 2)`, `line notin (1, 2)`, `line`, `!line`, `line>3`, `line<3`.
    """

    code = "MG2104"
    exit_code = ExitCode.USAGE


class ParameterNotTyped(MargoGitopsError):
    """A value of `--set` does not follow the type or the rules that the application declares.

    The message says what the application expects. Text in double braces, `{{ device.labels.line }}`, is an expression;
    it is checked when it is evaluated.
    """

    code = "MG2105"
    exit_code = ExitCode.USAGE


class RevertConflicts(MargoGitopsError):
    """A commit cannot be undone, because later commits changed the same content; nothing was written.

    The message names the files. Undo the later commits first, or edit these files by hand.
    """

    code = "MG2106"


class ChangesInTheWay(MargoGitopsError):
    """Files that the command would write have uncommitted changes; nothing was written.

    Commit or stash them. Or pass `--commit`: the command then makes its own commit on top of the last one, and does not
    touch your files.
    """

    code = "MG2107"


class CommitNotMade(MargoGitopsError):
    """The commit could not be made; nothing was changed.

    Possible causes: git does not know who you are, the branch exists or is checked out, or git refuses for another
    reason.
    """

    code = "MG2108"
    exit_code = ExitCode.USAGE


class FilesNotWritten(MargoGitopsError):
    """The files of a change could not be written; those that were written are put back.

    The message says which file, and what the file system says.
    """

    code = "MG2109"
    exit_code = ExitCode.USAGE


class AnswerRefused(MargoGitopsError):
    """An answer of `deploy --interactive` cannot be taken.

    A render would refuse it: the devices cannot take the application, a value is missing, or a setting would change
    that can no longer change. The message says why. Nothing was changed, and the form asks again.
    """

    code = "MG2110"
    exit_code = ExitCode.USAGE

"""MG21xx: editing the fleet repo."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, MargoGitopsError, listed


class EditRefused(MargoGitopsError):
    """A change would make the fleet invalid; nothing was written.

    Each line names a finding that the fleet has with the change and does not have without it, as `margo-gitops
    validate` would show it. Ask for another change, or mend by hand what stands in its way first.
    """

    code = "MG2101"

    def __init__(self, what: str, findings: Sequence[str], *, why: Sequence[str] = ()) -> None:
        super().__init__(what, why=[*listed(findings), *why])


class NotEditable(MargoGitopsError):
    """A file cannot be edited by a command without losing something in it.

    Commands keep comments, order and layout; where they cannot be sure to, they leave the file alone. Edit it by hand.
    """

    code = "MG2102"


class EditImpossible(MargoGitopsError):
    """What was asked for cannot be done here: a name is taken, is missing, or could mean several things.

    The message says which names there are. Nothing was written.
    """

    code = "MG2103"
    exit_code = ExitCode.USAGE


class SelectorInvalid(MargoGitopsError):
    """What `--to` says is no selector.

    A selector is `all`, `device=ID`, or conditions that must all hold, separated by commas: `line=3`, `site=north`,
    `line!=3`, `line in (1, 2)`, `line notin (1, 2)`, `line`, `!line`, `line>3`, `line<3`.
    """

    code = "MG2104"
    exit_code = ExitCode.USAGE


class ParameterNotTyped(MargoGitopsError):
    """A value of `--set` is not of the type, or within the rules, that the application declares.

    The message says what the application wants. Text in double braces, `{{ device.labels.line }}`, is an expression and
    is checked where it is evaluated.
    """

    code = "MG2105"
    exit_code = ExitCode.USAGE


class RevertConflicts(MargoGitopsError):
    """A commit cannot be undone, because what it changed was changed again since; nothing was written.

    The files are named. Undo the later commits first, or edit these files by hand.
    """

    code = "MG2106"


class ChangesInTheWay(MargoGitopsError):
    """Files that the command would write hold changes that are not committed; nothing was written.

    Commit or stash them, or let the command make a commit of its own with `--commit`: it starts from the last commit
    and leaves your files alone.
    """

    code = "MG2107"


class CommitNotMade(MargoGitopsError):
    """The commit could not be made; nothing was changed.

    Git does not know who you are, the branch exists or is checked out, or git refuses for a reason of its own.
    """

    code = "MG2108"
    exit_code = ExitCode.USAGE


class FilesNotWritten(MargoGitopsError):
    """The files of a change could not be written; those that were are put back.

    The message says which one, and what the file system says.
    """

    code = "MG2109"
    exit_code = ExitCode.USAGE


class AnswerRefused(MargoGitopsError):
    """An answer of `deploy --interactive` cannot be taken.

    A render would refuse it: the devices cannot take the application, a value is missing, or a setting that may not
    change any more would. The message says why; nothing was changed, and the question is asked again.
    """

    code = "MG2110"
    exit_code = ExitCode.USAGE

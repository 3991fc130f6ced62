"""The files of the fleet repo that a policy names: the list of signers, and the program of its command."""

from __future__ import annotations

from collections.abc import Iterator

from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.fleet_policy import Policy
from margo_gitops.errors import AllowedSignersInvalid, MargoGitopsError, PolicyUnusable
from margo_gitops.rendering.intent import Located
from margo_gitops.rendering.policies.facts import NO_POLICY
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers


def policy_files(policy: Policy) -> Iterator[str]:
    """Yield the files and folders of the fleet repo that a policy names."""
    if policy.signatures is not None:
        yield policy.signatures.allowed_signers
    if policy.command and "/" in policy.command[0]:
        yield policy.command[0].removeprefix("./").rpartition("/")[0] or policy.command[0].removeprefix("./")


def unusable(tree: FileTree, fleet: Located[Fleet]) -> Iterator[MargoGitopsError]:
    """Yield what a policy names and the same tree does not hold, or holds in no usable form."""
    policy = fleet.value.spec.policy or NO_POLICY
    if policy.signatures is not None:
        try:
            read_signers(tree, fleet)
        except PolicyUnusable as error:
            yield error
    if policy.command and "/" in policy.command[0]:
        program = policy.command[0].removeprefix("./")
        file = tree.file(program)
        if file is None or file.kind != "file":
            yield PolicyUnusable(
                f"the policy's command names {program}, which is no file of the fleet repo",
                where=fleet.at("spec", "policy", "command", 0),
                remedy="add the file, or name a program on the PATH without a slash",
            )


def read_signers(tree: FileTree, fleet: Located[Fleet]) -> AllowedSigners:
    """Return the list of signers that a policy names.

    Raises:
        PolicyUnusable: it is not there, or cannot be used.
    """
    policy = fleet.value.spec.policy or NO_POLICY
    path = policy.signatures.allowed_signers if policy.signatures else ""
    where = fleet.at("spec", "policy", "signatures", "allowedSigners")
    file = tree.file(path) if path else None
    if file is None or file.kind != "file":
        raise PolicyUnusable(
            f"the policy's list of signers, {path}, is no file of the fleet repo",
            where=where,
            remedy="add it: a line for each signer, as ssh-keygen's ALLOWED SIGNERS",
        )
    try:
        return parse_allowed_signers(file.read(), path)
    except AllowedSignersInvalid as error:
        why = [str(each) for each in error.findings]
        raise PolicyUnusable(f"the policy's list of signers, {path}, cannot be used", where=where, why=why) from error

"""The command of a fleet's policy: another program reads the plan as JSON and reports findings.

COMMAND-1  Program and arguments come from the policy before the change, so that a change cannot choose its own judge. A
           program in the fleet repo comes from that commit as well, with all files of its folder.
COMMAND-2  It runs only where the caller asked for it: a fleet repo is data, and data does not start programs.
COMMAND-3  It gets the plan on standard input, PATH and LC_ALL as its environment, and an empty folder or a copy of its
           own folder as working folder; never the fleet repo, a key or a token.
COMMAND-4  It ends with 0 (no objection; output is ignored), or with 1 and a list of findings. Everything else is an
           error: another status, more than a minute, more than 1 MiB of findings.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated

from margo_gitops.appliers.programs import Finished, run_program
from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.declarations import About
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Node, SourceText
from margo_gitops.documents.records import read
from margo_gitops.errors import CommandRefuses, InvalidDocument, Location, PolicyUnusable, UnreadableDocument
from margo_gitops.rendering.policies.facts import PolicyInForce, Verdict
from margo_gitops.values import dataclass

TIME_OUT = 60.0
"""Seconds."""

MAX_FOLDER = 64 * 1024 * 1024
"""Bytes that the folder of a program may have."""

_SHOWN = 10
_LONGEST = 300
"""Lines, and characters of each, that are shown of what a failed program said."""


@dataclass(frozen=True, slots=True)
class CommandFinding:
    """What a policy's command says of the plan."""

    message: Annotated[str, About("What is wrong.")]
    file: Annotated[str | None, About("Relative to the fleet repo.")] = None
    line: Annotated[int | None, About("From 1.")] = None
    column: Annotated[int | None, About("From 1.")] = None
    device: Annotated[str | None, About("The device concerned.")] = None
    remedy: Annotated[str, About("What to do.")] = ""


@dataclass(frozen=True, slots=True)
class CommandFindings:
    """What a policy's command prints."""

    findings: tuple[CommandFinding, ...]


def judge_by_command(repo: FleetRepo, force: PolicyInForce, plan: bytes, *, time_out: float = TIME_OUT) -> Verdict:
    """Run a policy's command on a plan.

    Args:
        repo: the fleet repo.
        force: a policy with a command, of a commit.
        plan: as JSON.
        time_out: seconds.

    Raises:
        PolicyUnusable: it cannot be run, or does not end as COMMAND-4 says.
    """
    where = force.at("command")
    command = list(force.policy.command)
    with TemporaryDirectory(prefix="margo-gitops-policy-") as folder:
        if "/" in command[0]:
            if force.commit is None:
                raise PolicyUnusable("the policy's command is of no commit", where=where)
            command[0] = str(_place(repo.tree(force.commit), command[0].removeprefix("./"), Path(folder), where))
        done = _run(command, plan, Path(folder), force, time_out)
    if done.status == 0:
        return Verdict("command", "passed", f"{force.policy.command[0]} has no objection")
    if done.status != 1:
        raise _failed(force, f"it ended with {done.status}", done)
    found = _findings(done, force)
    reasons = tuple(
        CommandRefuses(
            each.message,
            where=Location(each.file, each.line, each.column) if each.file else where,
            device=each.device,
            remedy=each.remedy,
        )
        for each in found
    )
    return Verdict("command", "refused", f"{force.policy.command[0]} refuses the plan", reasons)


def _place(tree: FileTree, program: str, folder: Path, where: Location) -> Path:
    """Write a program and the other files of its folder; return where it is."""
    parent = program.rpartition("/")[0]
    left = MAX_FOLDER
    found = False
    for file in tree.files(parent):
        if file.kind != "file":
            continue
        left -= file.size
        if left < 0:
            raise PolicyUnusable(f"the folder {parent} has more than {MAX_FOLDER} bytes", where=where)
        path = folder / file.path[len(parent) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read())
        path.chmod(0o700)
        found = found or file.path == program
    if not found:
        raise PolicyUnusable(
            f"the policy's command names {program}, which is not a file of the fleet repo", where=where
        )
    return folder / program[len(parent) + 1 :]


def _run(command: list[str], plan: bytes, folder: Path, force: PolicyInForce, time_out: float) -> Finished:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    with TemporaryFile() as standard_input:
        standard_input.write(plan)
        standard_input.seek(0)
        try:
            done = run_program(command, environment, seconds=time_out, folder=folder, reads=standard_input)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise PolicyUnusable(
                f"the policy's command {force.policy.command[0]} cannot be run",
                where=force.at("command"),
                why=[reason],
                remedy="install it, or name a file of the fleet repo that can be executed",
            ) from error
    if done.status is None:
        raise _failed(force, f"it took more than {time_out:g} seconds", done)
    return done


def _findings(done: Finished, force: PolicyInForce) -> tuple[CommandFinding, ...]:
    try:
        source = read_json(done.output.encode(), "what it prints")
        wrapped = Node({"findings": source.root}, 1, 1)
        found = read(CommandFindings, SourceText(source.file, wrapped)).findings
    except (InvalidDocument, UnreadableDocument) as error:
        raise _failed(force, f"it ended with 1, and what it prints is not a list of findings: {error}", done) from error
    if not found:
        raise _failed(force, "it ended with 1, and found nothing", done)
    return found


def _failed(force: PolicyInForce, why: str, done: Finished) -> PolicyUnusable:
    said = done.complaint.strip().splitlines()[-_SHOWN:]
    return PolicyUnusable(
        f"the policy's command {force.policy.command[0]} failed",
        where=force.at("command"),
        why=[why, *(line[:_LONGEST] for line in said)],
        remedy="fix it: it must end with 0, or with 1 and a JSON list of findings on standard output",
    )

"""`margo-gitops agent`: what runs on a device."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import click

from margo_gitops.agent.memory.events import LogFormat
from margo_gitops.agent.memory.state_folder import refuse_other_user
from margo_gitops.agent.pull.held import freshness_keeper, read_policy, trust_keeper, verify_held
from margo_gitops.agent.run import run_service
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.agent.settings.environment import read_environment
from margo_gitops.agent.settings.loading import DEFAULT_CONFIGURATION, check_certificates, check_folders
from margo_gitops.appliers.applier import never
from margo_gitops.cli.device_bundle import bundle, log_format, once
from margo_gitops.cli.device_orders import apply_now, config_option, load_configuration, resume, suspend
from margo_gitops.cli.options import Duration
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.freshness import MAX_PROOF_BYTES
from margo_gitops.errors import AgentMisconfigured, EnrolmentUnusable, ExitCode, NothingHeld

if TYPE_CHECKING:
    from margo_gitops.agent.pull.proof_keeper import FreshnessKeeper

_FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_LONGEST_CODE = 1024


@click.group()
def agent() -> None:
    """Pull, verify and apply this device's state.

    Exit status: 0 ok, 2 usage or configuration, 3 transport (try again), 4 trust refused, 5 apply failed, 75 another
    agent uses the state folder, or all that is missing waits: for a maintenance window, a lock or `agent resume`.
    """


@agent.command()
@click.argument("where", metavar="URL|FILE|FOLDER")
@config_option
@click.option("--code-file", type=_FILE, help="The code of `device enroll`, in a file; - for standard input.")
@click.option("--device", "device_id", metavar="ID", help="The id that this device has, or asks for.")
@click.option("--trust-document", type=_FILE, help="The fleet's keys/<version>.json, for a device without a code.")
@click.option("--ca-file", type=_FILE, help="Certificates (PEM) to trust for TLS. Default: the system's.")
@click.option(
    "--key", type=_FILE, help="The device's ed25519 key, or the .pub file of one in ssh-agent. Default: made."
)
@click.option("--base", type=_FILE, help="A configuration without device, source and trust: appliers, and the rest.")
@click.option("--wait", type=Duration(), default="0s", help="How long to wait for approval: 10m. Default: not at all.")
def enroll(
    where: str,
    config: Path | None,
    code_file: Path | None,
    device_id: str | None,
    trust_document: Path | None,
    ca_file: Path | None,
    key: Path | None,
    base: Path | None,
    wait: int,
) -> None:
    """Enrol this device, and write the agent's configuration.

    At the URL of a server, with the code that `margo-gitops device enroll` printed; without --code-file, it is asked
    for. Or with the FILE that this command wrote. Run it again after an interruption: it continues. Without a line, the
    FOLDER on a stick takes the request home; when it was approved, the same command finds the answer there.

    Exit status: 0 enrolled, 2 usage or disk, 3 transport (try again), 4 refused, 75 the key waits for approval.
    """
    from margo_gitops.agent.enrolment import enroll as enroll_device
    from margo_gitops.agent.settings.invitation import Invitation, read_given, read_invitation

    if "://" in where:
        given = Invitation(
            server=where,
            device=device_id,
            document=read_given(trust_document) if trust_document else None,
            authority=read_given(ca_file) if ca_file else None,
        )
        if code_file is not None or trust_document is None:
            given = given.with_code(_code(code_file))
    elif Path(where).is_dir():
        if code_file or ca_file:
            raise click.UsageError("a stick needs no --code-file and no --ca-file")
        document = read_given(trust_document) if trust_document else None
        given = Invitation(device=device_id, stick=Path(where).absolute(), document=document, asks=True)
    elif code_file or device_id or trust_document or ca_file:
        raise click.UsageError(
            "a FILE of `device enroll` has all of that; name only --config, --key, --base and --wait"
        )
    else:
        given = read_invitation(Path(where))
    place = config or Path(read_environment(os.environ).config or DEFAULT_CONFIGURATION)
    made = enroll_device(given, place, say=note, key=key, base=base, wait=wait)
    say(f"this is {made.device}; {place} is written")


def _code(file: Path | None) -> str:
    if file == Path("-"):
        return sys.stdin.read(_LONGEST_CODE)
    if file is not None:
        what = "the code cannot be read"
        return read_small_file(file, _LONGEST_CODE, what=what, error=EnrolmentUnusable).decode("utf-8", "replace")
    if not sys.stdin.isatty():
        raise click.UsageError("name the code's file with --code-file; - for standard input")
    return str(click.prompt("code", hide_input=True, err=True))


@agent.command()
@config_option
@log_format
def run(config: Path | None, log_format: LogFormat) -> None:
    """Poll and apply until SIGTERM or SIGINT. SIGHUP polls now and retries what failed."""
    run_service(load_configuration(config), log_format)


@agent.command()
@config_option
@output_option()
def status(config: Path | None, output: str) -> None:
    """Show what the device holds and runs, and what failed."""
    from margo_gitops.agent.report.inspection import as_json, as_text, report

    found = report(load_configuration(config))
    show(output, as_json(found), as_text(found).split("\n"))


@agent.command()
@config_option
@output_option()
def capabilities(config: Path | None, output: str) -> None:
    """Show what this device is and offers, as a Margo capabilities document.

    It asks the machine and the engines of the appliers now. What the first document of `capabilities` in the
    configuration says counts before that. With `discover: true`, a running agent does the same by itself.

    Exit status: 0 all is known, 5 an engine does not answer: the document is without it.
    """
    from margo_gitops.agent.agent import create_appliers
    from margo_gitops.agent.report.discovery import find_capabilities
    from margo_gitops.documents.yaml_text import write_yaml

    configuration = _load_to_write(config)
    found = find_capabilities(configuration, create_appliers(configuration, never))
    document = json.loads(found.document)
    show(output, document, write_yaml(document).decode().rstrip("\n").split("\n"))
    for name, error in found.silent.items():
        note(f"{name}: {error.what}")
    sys.exit(ExitCode.APPLY if found.silent else ExitCode.OK)


@agent.command()
@config_option
@click.option("--ready", is_flag=True, help="Also ask whether a verified state is held.")
def health(config: Path | None, *, ready: bool) -> None:
    """Ask the running agent whether it works, at `health.listen` of its configuration.

    For the health check of a container, and for scripts.

    Exit status: 0 it works, 1 it does not, or is not ready, 3 no agent answers.
    """
    from margo_gitops.agent.service.health import ask

    settings = load_configuration(config).health
    if settings is None or settings.listen is None:
        raise AgentMisconfigured(
            "this agent answers nowhere", remedy="name health.listen in its configuration, such as 127.0.0.1:9465"
        )
    for path in ("/healthz", "/readyz")[: 1 + ready]:
        status, text = ask(settings.listen, path)
        if status != HTTPStatus.OK:
            say(text.strip() or f"{path}: status {status}")
            sys.exit(ExitCode.FINDINGS)
    say("ready" if ready else "healthy")


@agent.command()
@config_option
def verify(config: Path | None) -> None:
    """Verify the held state again: every digest, the signature, and the version against the floor.

    Exit status: 0 verified, 1 nothing held, 4 not the state that was trusted.
    """
    state = verify_held(load_configuration(config))
    signer = state.signer or "no one (unsigned state is accepted here)"
    say(f"{state.title}: verified")
    say(f"  {len(state.deployments)} deployments; signed by {signer}")


@agent.command()
@click.option("--root", type=_FOLDER, default="/", help="Install into this root folder, for images. Default: /.")
@click.option("--timer", is_flag=True, help="A timer that polls each five minutes, in place of a service that stays.")
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    help="The command that the unit calls. Default: this one.",
)
@click.option("--group", "groups", multiple=True, help="Group of the engine's socket. Default: docker, if it exists.")
def install(root: Path, program: Path | None, groups: tuple[str, ...], *, timer: bool) -> None:
    """Write a hardened systemd unit, its user, and a configuration with every setting explained.

    A file that someone changed stays as it is. Nothing is started; the last lines say what to do next.
    """
    from margo_gitops.agent.install import install as install_files
    from margo_gitops.agent.install import next_steps

    command = program or Path(sys.argv[0]).absolute()
    for path, placed in install_files(root, command, timer=timer, groups=groups or None).items():
        say(f"{path}: {placed}")
    if program is None and root != Path("/"):
        note(f"the unit calls {command}: if that is not its place in {root}, name it with --program")
    note("next:")
    for step in next_steps(timer=timer):
        note(f"  {step}")


@agent.group("config")
def config_group() -> None:
    """Check this device's configuration, or show what it can say."""


@config_group.command()
@config_option
def check(config: Path | None) -> None:
    """Check the configuration and the files that it names, without the network.

    Exit status: 0 it can be used, 2 it cannot; every mistake is listed with its line.
    """
    from margo_gitops.agent.apply.workloads import read_eligibility

    found = load_configuration(config)
    read_eligibility(found.device, found.capabilities)
    check_folders(found)
    if trust_keeper(found) is None:
        read_policy(found)
    for each in check_certificates(found):
        note(each)
    say(f"the configuration of {found.device} can be used")


@config_group.command()
def explain() -> None:
    """Print a configuration with every setting explained, and what counts without it."""
    from margo_gitops.agent.install import explained

    for line in explained():
        say(line)


@agent.group()
def freshness() -> None:
    """Show whether this device holds the newest state, or import a proof from a file."""


@freshness.command("show")
@config_option
@output_option()
def show_proof(config: Path | None, output: str) -> None:
    """Show the proof that the held state is the newest, and when it expires.

    Exits 1 if there is no valid proof.
    """
    from margo_gitops.agent.report.inspection import held_proof

    configuration = load_configuration(config)
    _keeper(configuration)
    found = held_proof(configuration)
    if found is None:
        raise TypeError("a device with a keeper has a verdict")
    show(output, asdict(found), [f"{found.verdict}: {found.text}"])
    codes = {"fresh": ExitCode.OK, "expiring": ExitCode.OK, "refused": ExitCode.TRUST}
    sys.exit(codes.get(found.verdict, ExitCode.FINDINGS))


@freshness.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@config_option
def import_proof(file: Path, config: Path | None) -> None:
    """Import the proof in FILE, which `margo-gitops freshness export` wrote.

    A running agent uses it in its next cycle.
    """
    configuration = _load_to_write(config)
    keeper = _keeper(configuration)
    content = read_small_file(file, MAX_PROOF_BYTES, what="the proof cannot be read", error=AgentMisconfigured)
    try:
        state = verify_held(configuration)
    except NothingHeld:
        state = None
    taken = keeper.take(content, state)
    say(f"proven as of {taken.statement.issued}, until {taken.statement.expires}; signed by {taken.signer}")


def _load_to_write(config: Path | None) -> AgentConfiguration:
    configuration = load_configuration(config)
    refuse_other_user(configuration.state_folder)
    return configuration


def _keeper(configuration: AgentConfiguration) -> FreshnessKeeper:
    keeper = freshness_keeper(configuration, lambda _event: None)
    if keeper is None:
        raise AgentMisconfigured(
            "this device does not ask for proof of freshness",
            remedy="add freshness: {} to the agent's configuration",
        )
    return keeper


@agent.group()
def trust() -> None:
    """Take the fleet's trust documents by hand."""


@trust.command("import")
@click.argument("files", type=click.Path(path_type=Path, dir_okay=False, exists=True), nargs=-1, required=True)
@config_option
def import_documents(files: tuple[Path, ...], config: Path | None) -> None:
    """Follow the trust documents in FILES, keys/<version>.json of the fleet repo, on a device without a network.

    Each version after the one that the device has must be there. A running agent uses them in its next cycle.
    """
    from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES
    from margo_gitops.trust.trust_document import read_envelope

    configuration = _load_to_write(config)
    keeper = trust_keeper(configuration)
    if keeper is None:
        raise AgentMisconfigured(
            "this device follows no trust document", remedy="name the first one as trust.document in its configuration"
        )
    what = "the trust document cannot be read"
    contents = [read_small_file(file, MAX_ENVELOPE_BYTES, what=what, error=AgentMisconfigured) for file in files]
    offered = {read_envelope(each, str(file)).version: each for file, each in zip(files, contents, strict=True)}
    held = keeper.current().version
    for version in sorted(each for each in offered if each > held):
        keeper.take(offered[version])
    newest = keeper.current()
    taken = "followed" if newest.version > held else "held already"
    say(f"trust document {newest.version} is {taken}; it counts until {newest.document.expires}")


for _command in (once, bundle, suspend, resume, apply_now):
    agent.add_command(_command)

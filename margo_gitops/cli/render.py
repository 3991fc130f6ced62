"""`margo-gitops render`: fleet repo to state repo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from margo_gitops.cli.options import (
    FRESHNESS_KEY,
    cache_folder,
    date_of_files,
    fleet_option,
    policy_command_option,
    signing_key_option,
    state_option,
)
from margo_gitops.cli.output import CHANGES, note, output_option, say, say_error, show
from margo_gitops.documents.records import write
from margo_gitops.errors import MargoGitopsError, StateDiffers, listed
from margo_gitops.operations.fleet_input import other_signer_note, read_signing_key
from margo_gitops.operations.render.fleet_render import Checked, Rendered, RenderRequest, check_fleet, render_fleet
from margo_gitops.state_repo.publication import Publication, PublishedDevice
from margo_gitops.wording import counted, few


@click.command()
@fleet_option
@click.option("--rev", default="HEAD", show_default=True, help="The commit of the fleet repo to render.")
@state_option
@signing_key_option
@click.option(
    "--freshness-key",
    envvar=FRESHNESS_KEY,
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"A key that signs a statement of freshness. Environment: {FRESHNESS_KEY}. Default: the signing key, "
    "if the fleet has spec.freshness.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the state repo differs from this commit.")
@click.option("--create", is_flag=True, help="Start a new state repo where one is expected.")
@click.option("--allow-older", is_flag=True, help="Render a commit that is not based on the last rendered commit.")
@click.option("--allow-other-branch", is_flag=True, help="Render a commit that is not on the branch that devices get.")
@click.option(
    "--resign", is_flag=True, help="Sign again what another key signed; each of these devices gets a new version."
)
@policy_command_option
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    help="Number of processes for a first render. Default: one for each processor, in large fleets.",
)
@click.option("--watch", is_flag=True, help="Write nothing; show the plan now and after each save, until interrupted.")
@output_option()
def render(
    fleet: Path,
    rev: str,
    state: str | None,
    signing_key: Path | None,
    freshness_key: Path | None,
    check: bool,
    create: bool,
    allow_older: bool,
    allow_other_branch: bool,
    resign: bool,
    allow_policy_command: bool,
    jobs: int | None,
    watch: bool,
    output: str,
) -> None:
    """Render a commit of the fleet repo into the state repo.

    The command computes the desired state of every device. Devices whose state changed get a commit on their branch.
    All branches move, or none. The same commit always renders to the same bytes.
    """
    if watch:
        _watch(fleet, state, output)
        return
    key = read_signing_key(signing_key) if signing_key else None
    fresh = read_signing_key(freshness_key) if freshness_key and not check else None
    request = RenderRequest(
        fleet,
        rev,
        state,
        cache_folder(),
        key,
        allow_older,
        resign,
        fresh,
        policy_command=allow_policy_command,
        other_branch=allow_other_branch,
        create=create,
        jobs=jobs,
    )
    if check:
        _print_check(check_fleet(request), output)
    else:
        _print_rendered(render_fleet(request), output)


def _watch(fleet: Path, state: str | None, output: str) -> None:
    # Only this option needs plans, and the package that watches files.
    from margo_gitops.operations.plan.plan_text import as_text
    from margo_gitops.operations.plan.planning import PlanRequest
    from margo_gitops.operations.plan.watching import watch_fleet

    # Commits do not change while somebody edits, and looking at them takes longer than a save should.
    date = date_of_files(None, None)
    request = PlanRequest(fleet, None, None, state, cache_folder(), at=date, commits=False)
    for saved in watch_fleet(request):
        if output == "json":
            plan = {"error": str(saved.plan)} if isinstance(saved.plan, MargoGitopsError) else write(saved.plan)
            show(output, {"saved": list(saved.files), "plan": plan}, (), stream=True)
            continue
        if saved.files:
            say("")
            say(f"saved  {few(saved.files, 3)}")
        if isinstance(saved.plan, MargoGitopsError):
            say_error(saved.plan)
        else:
            show(output, saved.plan, as_text(saved.plan), paint=CHANGES)


def _print_check(checked: Checked, output: str) -> None:
    differences = checked.differences
    if checked.signer_before is not None:
        note(other_signer_note(checked.signer_before))
    show(
        output,
        {"differences": differences, **_signer_before(checked)},
        () if differences else ["the state repo is what this fleet commit renders to"],
    )
    if differences:
        raise StateDiffers(
            "the state repo is not what this fleet commit renders to",
            why=listed(differences),
            remedy="run `margo-gitops render`",
        )


def _print_rendered(rendered: Rendered, output: str) -> None:
    if rendered.first and rendered.cloned:
        note(
            "the state repo is new; if devices read another one, name it with --state-repo or in spec.stateRepo."
            " If it was lost: devices refuse what begins again; use margo-gitops state restore"
        )
    if rendered.redirected_to:
        note(
            f"{rendered.location} redirects to {rendered.redirected_to}; git follows, but devices stop with MG1403."
            " Name the new URL in spec.stateRepo and on the devices"
        )
    if rendered.signer_before is not None:
        note(other_signer_note(rendered.signer_before))
    if rendered.unattested:
        note("no key signs statements of freshness; devices hear of this render, not that it is new")
    if rendered.uncommitted and output == "text":
        count = len(rendered.uncommitted)
        files = "file differs" if count == 1 else "files differ"
        note(f"{count} {files} from HEAD and {'is' if count == 1 else 'are'} not rendered")
    show(output, _as_json(rendered), _lines(rendered))


def _lines(rendered: Rendered) -> Iterator[str]:
    publication = rendered.publication
    yield f"fleet   {rendered.commit.id[:12]}  {rendered.commit.subject}"
    if publication.trust is not None:
        yield f"trust   version {rendered.trust_version}"
    if publication.fleet_commit is None:
        yield f"nothing changed: {counted(publication.unchanged, 'device')} up to date"
        yield from _freshness_line(publication)
        return
    yield f"state   {publication.fleet_commit[:12]}  {rendered.location}{'  (new)' if rendered.first else ''}"
    for line in listed(f"{_change(change)}{_moved(publication, change.device)}" for change in publication.changes):
        yield f"  {line}"
    unchanged = publication.moved.keys() - {change.device for change in publication.changes}
    for line in listed(f"{device}: the same state{_moved(publication, device)}" for device in sorted(unchanged)):
        yield f"  {line}"
    for device in publication.left:
        yield f"  {device}: left the fleet; its branch stays, nothing on it stops"
    yield f"{counted(len(publication.changes), 'device')} changed, {publication.unchanged} unchanged"
    yield from _freshness_line(publication)


def _freshness_line(publication: Publication) -> Iterator[str]:
    if publication.freshness is not None:
        yield f"fresh until {publication.freshness.statement.expires}"


def _change(change: PublishedDevice) -> str:
    site = f"{change.site}/" if change.site else ""
    return f"{site}{change.device}: manifest {change.version}, commit {change.commit[:12]}"


def _moved(publication: Publication, device: str) -> str:
    site = publication.moved.get(device, "")
    return "" if site == "" else f", moved from site {site or '(none)'}"


def _signer_before(made: Rendered | Checked) -> dict[str, str]:
    return {"signerBefore": made.signer_before} if made.signer_before is not None else {}


def _as_json(rendered: Rendered) -> dict[str, object]:
    publication = rendered.publication
    return {
        "fleetCommit": rendered.commit.id,
        "stateRepo": rendered.location,
        "firstRender": rendered.first,
        **_signer_before(rendered),
        "stateCommit": publication.fleet_commit,
        "changed": [
            {"device": change.device, "site": change.site, "manifestVersion": change.version, "commit": change.commit}
            for change in publication.changes
        ],
        "unchanged": publication.unchanged,
        "left": list(publication.left),
        "moved": [{"device": device, "from": site} for device, site in publication.moved.items()],
        "uncommitted": list(rendered.uncommitted),
        **({"trustVersion": rendered.trust_version} if rendered.trust_version else {}),
        "freshUntil": publication.freshness.statement.expires if publication.freshness else None,
    }

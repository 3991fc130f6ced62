"""`margo-gitops publish`: state repo to static files, a bucket, or the repositories of shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.cli.options import Duration, cache_folder, extra_packages, fleet_option, state_option
from margo_gitops.cli.output import output_option, say_error, show
from margo_gitops.documents.records import write
from margo_gitops.errors import MargoGitopsError, PublishDiffers, PublishTargetUnusable, listed
from margo_gitops.operations.fleet_input import chosen_location, open_state
from margo_gitops.publishing.folder import FolderTarget
from margo_gitops.publishing.layout import PublishTarget
from margo_gitops.publishing.publication import Published, differences
from margo_gitops.publishing.publication import publish as publish_state
from margo_gitops.wording import counted


@click.command()
@click.argument("target", required=False)
@fleet_option
@state_option
@click.option(
    "--keep",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long to keep replaced content, for devices that are downloading it.",
)
@click.option(
    "--history",
    is_flag=True,
    help="Publish the state repo itself, for servers that follow the bucket (docs/replicas.md).",
)
@click.option("--shards", is_flag=True, help="Push to each repository of spec.shards what its devices read, instead.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the target differs from the state repo.")
@output_option()
def publish(
    target: str | None,
    fleet: Path,
    state: str | None,
    keep: int,
    history: bool,
    shards: bool,
    check: bool,
    output: str,
) -> None:
    """Publish the state of every device as static files in TARGET: a folder, or s3://BUCKET/PREFIX.

    A web server or CDN in front of it serves the Margo desired state API (docs/publishing.md). Content is written
    before the manifests that name it, so every manifest always finds its content. Only new content is written.
    """
    location = chosen_location(fleet, state)
    if shards:
        if target is not None or history:
            raise click.UsageError("--shards takes no TARGET and no --history: it fills what spec.shards names")
        _publish_shards(fleet, location, check, output)
        return
    if target is None:
        raise click.UsageError("name a TARGET, or pass --shards")
    if history:
        _publish_history(target, location, keep, check, output)
        return
    with open_state(location, cache_folder(), create=False) as held, _open_target(target) as place:
        if check:
            _print_check(differences(held.repo, place), output)
        else:
            published = publish_state(held.repo, place, keep)
            show(output, {"target": target, **write(published)}, _lines(published))


def _publish_history(target: str, location: str, keep: int, check: bool, output: str) -> None:
    with extra_packages("publishing into a bucket", "operator,s3"):
        from margo_gitops.publishing.history import history_differences, publish_history
        from margo_gitops.state_repo.bucket import Bucket
    bucket = Bucket(target, PublishTargetUnusable)
    with closing(bucket), open_state(location, cache_folder(), create=False) as held:
        if check:
            _print_check(history_differences(held.repo, bucket), output)
            return
        sent = publish_history(held.repo, bucket, keep)
        line = (
            f"{sent.moved} branches moved, {sent.sent} bytes sent; "
            f"{counted(sent.bundles, 'bundle')} in the bucket, {sent.collected} collected"
        )
        show(output, {"target": target, **write(sent)}, [line])


def _publish_shards(fleet: Path, location: str, check: bool, output: str) -> None:
    from margo_gitops.publishing.shards import publish_shard

    repo = FleetRepo.find(fleet)
    shards = read_fleet_document(repo.tree("HEAD")).value.spec.shards
    if not shards:
        show(output, {"shards": []}, ["nothing to publish: margo-gitops.yaml has no spec.shards"])
        return
    done, failed = [], []
    with open_state(location, cache_folder(), create=False) as held:
        for name in shards:
            try:
                done.append(publish_shard(held.repo, shards, name, repo.root, cache_folder(), check=check))
            except MargoGitopsError as error:  # the others are published nevertheless
                failed.append(error)
    lines = [f"{one.name}: {counted(one.devices, 'device')}, {one.moved} branches moved  {one.url}" for one in done]
    show(output, {"shards": [write(one) for one in done]}, lines)
    for each in failed[:-1]:
        say_error(each)
    if failed:
        raise failed[-1]


@contextmanager
def _open_target(target: str) -> Iterator[PublishTarget]:
    if "://" not in target:
        yield FolderTarget(Path(target).absolute())
        return
    with extra_packages("publishing into a bucket", "operator,s3"):
        from margo_gitops.publishing.bucket import BucketTarget
    with closing(BucketTarget(target)) as bucket:
        yield bucket


def _print_check(found: list[str], output: str) -> None:
    show(output, {"differences": found}, () if found else ["the target is what the state repo holds"])
    if found:
        raise PublishDiffers(
            "the target is not what the state repo holds",
            why=listed(found),
            remedy="run `margo-gitops publish`",
        )


def _lines(published: Published) -> Iterator[str]:
    for line in listed(f"{change.device}: manifest {change.version}" for change in published.changed):
        yield f"  {line}"
    for device in published.left:
        yield f"  {device}: not in the state repo; keeps its last manifest"
    yield (
        f"{counted(len(published.changed), 'device')} changed, {published.unchanged} unchanged; "
        f"{counted(published.written, 'object')} written, {published.collected} collected"
    )

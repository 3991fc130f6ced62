"""Pull over HTTP: a manifest, and the deployments it lists (Margo desired state, client algorithm).

Rules:

1.  The manifest is asked for with the entity tag of what is held; 304 means unchanged, and so do equal bytes.
2.  A version that is not greater than the held one is refused before anything else is fetched; `judge` has the floor.
3.  What is held already is not fetched again: deployments are known by their digests, not by their ids.
4.  First sync and many changes come in the bundle, few changes one by one. A bundle whose bytes have another digest
    than the manifest states refuses the whole update. One that cannot be had, or lacks files, is made up for singly.
5.  Every digest is verified over the bytes that came, decoded. Sizes are advisory.
6.  A listed deployment that the server does not have is taken from the bundle. Where the bundle lacks it too, the pull
    fails; it never removes anything. The manifest may have changed meanwhile, so it is fetched once more first.
7.  All or nothing: a snapshot is whole, and its entity tag is only ever told back to the server it came from.
8.  Where the device asks for signatures, the manifest's commit comes along: from the answer that has the manifest, or
    by the manifest's digest. `judge` decides about it, and about its absence.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, FRESHNESS_PATH, MAX_PROOF_BYTES
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import (
    BUNDLE_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE,
    BundleReference,
    DeploymentReference,
    StateManifest,
)
from margo_gitops.documents.state_layout import (
    COMMIT_HEADER,
    COMMIT_MEDIA_TYPE,
    COMMITS_PATH,
    MANIFEST_FILE,
    TRUST_PATH,
    deployment_path,
    trust_file,
)
from margo_gitops.errors import (
    SourceMisbehaved,
    SourceRefused,
    TransportError,
)
from margo_gitops.transport.http.api import DeviceApi, Reply, error_of, speak
from margo_gitops.transport.http.bundle import bundle_is_cheaper, read_bundle
from margo_gitops.transport.http.source import HttpLimits, HttpSource
from margo_gitops.transport.received import check_digest, read_manifest
from margo_gitops.transport.transport import Answer, PollHints
from margo_gitops.trust.floor import Floor, raise_floor
from margo_gitops.trust.git_commit import MAX_COMMIT_BYTES
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import replace
from margo_gitops.web.connection import WebConnection
from margo_gitops.web.metering import Cost, Deadline, Meter
from margo_gitops.web.refusal import retry_after, shown

_TAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]{0,200}"')


def revision_of(tag: str | None, manifest: bytes, url: str) -> str:
    """Return the revision of a state that a server tagged so.

    Args:
        tag: the ETag header; one that is missing or malformed counts as the digest.
        url: the base URL of the server.
    """
    own = _own(manifest)
    tag = tag.strip() if tag else own
    if tag == own or not _TAG.fullmatch(tag):
        return own
    return f"{tag} {url}"


def condition(held: Snapshot, url: str) -> str:
    """Return the If-None-Match header for what is held.

    Args:
        held: what is held, from any source.
        url: the base URL of the server that is asked.
    """
    tag, _, origin = held.revision.partition(" ")
    if origin == url and _TAG.fullmatch(tag):
        return tag
    return _own(held.manifest)


def _own(manifest: bytes) -> str:
    return f'"{sha256(manifest)}"'


POLL_INTERVAL_HEADER: Final = "X-Poll-Interval"
"""Seconds between polls that a server wishes for, on an answer that went well."""

_MANIFEST_TYPES: Final = frozenset({MANIFEST_MEDIA_TYPE, "application/json", "application/octet-stream", ""})
_DEPLOYMENT_TYPE: Final = "application/yaml"
_EARLY: Final = 2.0  # seconds by which a wait may end early


class HttpTransport:
    """Pulls one device's state from one server, and sends its reports there. Not for two threads at a time.

    Attributes:
        source: the settings.
        api: what reports are sent with.
    """

    def __init__(self, source: HttpSource, limits: HttpLimits | None = None, *, signed: bool = False) -> None:
        """Take the settings; nothing is opened yet (SourceMisconfigured: the environment names no usable proxy).

        Args:
            signed: whether a state comes with its commit (rule 8).
        """
        self.source = source
        self._limits = limits or HttpLimits()
        self._signed = signed
        self._meter = Meter()
        spoken = speak(source)
        self._contract = spoken.contract
        connection = WebConnection(source, self._meter, source.server_spiffe_id, spoken.seal)
        self.api = DeviceApi(spoken.contract, self._limits, connection)

    @property
    def cost(self) -> Cost:
        """What all pulls and reports together have used so far."""
        return self._meter.read()

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        """Return the state that the server has, or that it is the one that `held` is.

        Args:
            held: what the device holds; None for nothing.
            patience: whole seconds that the server may wait for a change, where something is held (RFC 7240, wait).
        """
        before = self.cost
        try:
            snapshot, hints = self._pull(held, patience if held else 0)
        except BaseException:
            self.api.close()
            raise
        return Answer(snapshot, hints, self.cost - before)

    def freshness(self, device: str, held: bytes | None) -> bytes | None:
        """Return the proof of freshness of a device; None where there is no other than the held one."""
        del device
        headers = {"If-None-Match": f'"{sha256(held)}"'} if held is not None else {}
        found = self._small(FRESHNESS_PATH, MAX_PROOF_BYTES, headers)
        return None if found == held else found

    def trust_document(self, version: int) -> bytes | None:
        """Return a version of the trust document; None where the server has none."""
        from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES  # needed after a rotation, in years

        return self._small(f"{TRUST_PATH}{trust_file(version)}", MAX_ENVELOPE_BYTES)

    def _small(self, path: str, limit: int, headers: Mapping[str, str] | None = None) -> bytes | None:
        """Return a resource next to the state; None where the server has none, or none but the held one."""
        deadline = Deadline(self.source.pull_seconds, self.source.read_seconds)
        try:
            self.api.prepare(deadline)
            reply = self.api.get(self.api.path_of(path), FRESHNESS_MEDIA_TYPE, limit, deadline, headers)
        except BaseException:
            self.api.close()
            raise
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.NOT_MODIFIED):
            return None
        if reply.status != HTTPStatus.OK:
            self.api.close()
            raise error_of(reply, self.source)
        return reply.body

    def close(self) -> None:
        """Close the kept connection. A later `pull` opens a new one."""
        self.api.close()

    def _pull(self, held: Snapshot | None, wait: int) -> tuple[Snapshot | None, PollHints]:
        begin = time.monotonic()
        reply = self._manifest(held, wait)
        if reply.status == HTTPStatus.NOT_MODIFIED:
            if held is None:
                raise SourceMisbehaved("the server says that nothing changed, but nothing was said to be held")
            return None, _hints(reply, wait, time.monotonic() - begin)
        # After the wait for a change: what follows has the time of a pull of its own.
        deadline = Deadline(self.source.pull_seconds, self.source.read_seconds)
        try:
            snapshot = self._snapshot(reply, held, deadline)
        except SourceRefused:
            again = self._manifest(None, 0)
            if again.body == reply.body:
                raise
            reply, wait = again, 0
            snapshot = self._snapshot(reply, held, deadline)
        return snapshot, _hints(reply, wait, None if snapshot else time.monotonic() - begin)

    def _manifest(self, held: Snapshot | None, wait: int) -> Reply:
        """Return an answer with status 200, or 304 where nothing changed (rule 1)."""
        headers = {}
        if held is not None:
            headers["If-None-Match"] = condition(held, self.source.url)
        if wait > 0:
            headers["Prefer"] = f"wait={wait}"
        deadline = Deadline(self.source.pull_seconds + wait, self.source.read_seconds + wait)
        self.api.prepare(deadline)
        limit = self._limits.manifest_bytes
        reply = self.api.get(self.api.manifest_target, MANIFEST_MEDIA_TYPE, limit, deadline, headers)
        if reply.status == HTTPStatus.UNAUTHORIZED and self.api.prepare(deadline):
            reply = self.api.get(self.api.manifest_target, MANIFEST_MEDIA_TYPE, limit, deadline, headers)
        if reply.status not in (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED):
            raise error_of(reply, self.source)
        return reply

    def _snapshot(self, reply: Reply, held: Snapshot | None, deadline: Deadline) -> Snapshot | None:
        if held is not None and reply.body == held.manifest:
            return None
        manifest = self._read_manifest(reply)
        contents: dict[Digest, bytes] = {}
        if held is not None:
            before = read_as(StateManifest, read_source(held.manifest, MANIFEST_FILE, foreign=True)).manifest_version
            sent = self._contract.sent(held, before)
            if reply.body == sent.manifest:
                return None
            floor = Floor(before, sha256(sent.manifest))
            raise_floor(floor, Floor(manifest.manifest_version, sha256(reply.body)), (), 1)  # rule 2
            contents = {sha256(each): each for each in (*held.deployments.values(), *sent.deployments.values())}
        missing = {item.digest: item for item in manifest.deployments if item.digest not in contents}
        bundle = manifest.bundle
        if bundle and bundle_is_cheaper(manifest, missing, self._limits.bundle_bytes):
            contents |= self._fetch_bundle(bundle, missing, deadline)
            bundle = None
        total = sum(len(contents.get(digest, b"")) for digest in missing)
        for digest in [digest for digest in missing if digest not in contents]:
            if digest in contents:
                continue  # it was in the bundle
            try:
                contents[digest] = self._fetch_deployment(missing[digest], deadline)
            except SourceRefused:
                contents |= self._fetch_bundle(bundle, missing, deadline) if bundle else {}
                bundle = None
                if digest not in contents:
                    raise
            total += len(contents[digest])
            if total > self._limits.total_bytes:
                raise SourceMisbehaved(f"the deployments are larger than {self._limits.total_bytes} bytes together")
        deployments = {item.deployment_id: contents[item.digest] for item in manifest.deployments}
        came = Snapshot(reply.body, deployments, None, "")
        taken = self._contract.taken(came, manifest.manifest_version)
        if self._signed:
            taken = replace(taken, commit=self._commit(reply, taken.manifest, deadline))
        return replace(taken, revision=revision_of(reply.header("ETag"), taken.manifest, self.source.url))

    def _commit(self, manifest_reply: Reply, manifest: bytes, deadline: Deadline) -> bytes | None:
        """Return the commit of a manifest; None where the server has none (rule 8)."""
        if carried := manifest_reply.header(COMMIT_HEADER):
            with suppress(ValueError):
                return base64.b64decode(carried, validate=True)
        target = self.api.path_of(f"{COMMITS_PATH}/{sha256(manifest)}")
        reply = self.api.get(target, COMMIT_MEDIA_TYPE, MAX_COMMIT_BYTES, deadline)
        if reply.status == HTTPStatus.NOT_FOUND:
            return None
        if reply.status != HTTPStatus.OK:
            raise error_of(reply, self.source)
        return reply.body

    def _read_manifest(self, reply: Reply) -> StateManifest:
        content_type = (reply.header("Content-Type") or "").partition(";")[0].strip().lower()
        if content_type not in _MANIFEST_TYPES:
            raise SourceMisbehaved(
                f"the server answers with {shown(content_type.encode())} instead of {MANIFEST_MEDIA_TYPE}",
                remedy="check that the URL is the base of the API, the part before /api/v1/deployments",
            )
        return read_manifest(reply.body, self._limits)

    def _fetch_bundle(
        self, bundle: BundleReference, missing: Mapping[Digest, DeploymentReference], deadline: Deadline
    ) -> dict[Digest, bytes]:
        """Return the missing deployments that the bundle has; none where it cannot be had (rule 4)."""
        target = self.api.path_of(bundle.url)
        try:
            reply = self.api.get(target, BUNDLE_MEDIA_TYPE, self._limits.bundle_bytes, deadline)
            if reply.status != HTTPStatus.OK:
                raise error_of(reply, self.source)
        except (SourceRefused, SourceMisbehaved):
            return {}
        check_digest(reply.body, bundle.digest, "the bundle is not the one that the manifest names", MANIFEST_FILE)
        try:
            return read_bundle(reply.body, missing, self._limits.archive_bytes)
        except ValueError:
            return {}

    def _fetch_deployment(self, reference: DeploymentReference, deadline: Deadline) -> bytes:
        target = self.api.path_of(reference.url)
        reply = self.api.get(target, _DEPLOYMENT_TYPE, self._limits.deployment_bytes, deadline)
        if reply.status != HTTPStatus.OK:
            raise self._not_had(reference, reply)
        what = "a deployment is not the one that the manifest lists"
        check_digest(reply.body, reference.digest, what, deployment_path(reference.deployment_id))
        return reply.body

    def _not_had(self, reference: DeploymentReference, reply: Reply) -> TransportError:
        """Rule 6."""
        error = error_of(reply, self.source)
        if reply.status != HTTPStatus.NOT_FOUND:
            return error
        return SourceRefused(
            f"the server lists deployment {reference.deployment_id}, but does not have it: {error.what}",
            remedy="see the log of the server. What runs keeps running: nothing is removed because of this",
        )


def _hints(reply: Reply, wait: int, unchanged_after: float | None) -> PollHints:
    """Return what an answer says about the next poll.

    Args:
        wait: the seconds for which the server was asked to wait.
        unchanged_after: the seconds after which it said that nothing changed; None where something did.
    """
    applied = _applied_wait(reply.header("Preference-Applied"), wait)
    # A server that says it waits, and does not, would be asked without a pause.
    is_early = unchanged_after is not None and unchanged_after < max(applied / 2, applied - _EARLY)
    return PollHints(
        waited=applied > 0 and not is_early,
        interval=retry_after(reply.header(POLL_INTERVAL_HEADER)),
        pause=retry_after(reply.header("Retry-After"), reply.header("Date")),
    )


def _applied_wait(applied: str | None, wait: int) -> int:
    """Return how many seconds the server waits for a change, as it says; 0 where it does not (RFC 7240, 3)."""
    for preference in (applied or "").lower().split(","):
        name, _, value = preference.partition("=")
        if wait > 0 and name.strip() == "wait":
            seconds = value.strip().strip('"')
            return min(wait, int(seconds[:9])) if seconds.isascii() and seconds.isdecimal() else wait
    return 0

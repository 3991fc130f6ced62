"""One commit of the branch `fleet` and the device commits that belong to it, checked against their origin.

VERIFY-1  The commit has one parent, the commit before it; the first has none.
VERIFY-2  Its Fleet-Commit is in the fleet repo, and rendered again, after the state in its parent, it gives the same
          tree.
VERIFY-3  Author, committer, dates, message and trailers are those that this render writes, to the byte.
VERIFY-4  Each device whose tree changed has, next on its branch, one commit of this very tree, made by the same rules;
          a device whose tree stayed has none.
VERIFY-5  A version goes up by exactly one, and only with a change, or to sign what had no signature, or another key's;
          or to what the trust document names as the lowest.
VERIFY-6  Every signature that exists is right; with a list of allowed signers every commit has one that it
          allows at the commit's date. Without a list, the trust document of the fleet commit is that list, where the
          fleet has one; VERIFY-3 holds its version to the trailer `Trust-Version`, which never goes down.
VERIFY-7  The bytes of every object that was read have the object's id.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from typing import Final, Literal

from margo_gitops import __version__
from margo_gitops.audit.verify.rendered_trees import (
    Rerender,
    TreeDifference,
    files_differ,
    folders,
    manifest_version,
    root_tree,
    unsound,
)
from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import state_signers
from margo_gitops.documents.state_layout import (
    DEVICE_REFS,
    DEVICES_FOLDER,
    FLEET_REF,
    LEFT_FOLDER,
    MANIFEST_FILE,
    deployment_path,
)
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.fleet_input import FleetInput, provenance
from margo_gitops.processes import without_collections
from margo_gitops.rendering.desired_state import DesiredState, raised
from margo_gitops.rendering.intent import Intent
from margo_gitops.state_repo.objects import DevicePlace, DeviceTree, StateObjects
from margo_gitops.state_repo.render_commits import Provenance, device_message, fleet_message
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_commit import GitCommit, Ident, build_commit, parse_trailers
from margo_gitops.trust.git_objects import BLOB, device_tree_id
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.state_commit import TRAILERS, StateCommit
from margo_gitops.values import dataclass, field, replace

THIS_VERSION: Final = f"margo-gitops {__version__}"
_RENDERED_BY: Final = re.compile(r"margo-gitops [A-Za-z0-9.+!-]{1,80}")

Severity = Literal["error", "warning"]


@dataclass(slots=True)
class Context:
    """What is known of the commit under examination.

    Attributes:
        signed: the fleet wants signed state.
        signers: who may have signed the commit; None: a signature is not demanded.
        before, after: where the parent and the commit hold each device, by encoded device id.
        changed: the state of every device whose tree changed, by encoded device id.
    """

    commit: str
    fleet_commit: str = ""
    severity: Severity = "error"
    signed: bool = False
    signers: AllowedSigners | None = None
    before: Mapping[str, DevicePlace] = field(default_factory=dict)
    after: Mapping[str, DevicePlace] = field(default_factory=dict)
    changed: dict[str, DesiredState] = field(default_factory=dict)

    def finding(
        self,
        what: str,
        expected: str | None = None,
        found: str | None = None,
        *,
        ref: str = FLEET_REF,
        file: str | None = None,
        severity: Severity = "error",
    ) -> AuditFinding:
        """Return a finding about this commit."""
        return AuditFinding(severity, self.commit, self.fleet_commit, ref, file, what, expected, found)

    def of_tree(self, difference: TreeDifference) -> AuditFinding:
        """Return a finding about a file; a warning where another version rendered it."""
        return self.finding(
            difference.what, difference.expected, difference.found, file=difference.path, severity=self.severity
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What a commit must be.

    Attributes:
        tree, parents: ids.
        origin: where the render comes from.
        exact: whether this version rendered it, so that every byte is known.
    """

    tree: str
    parents: tuple[str, ...]
    origin: Provenance
    message: str
    exact: bool


@dataclass(slots=True)
class CommitCheck:
    """Checks the commits of a history in order.

    Attributes:
        chain: ids of the branch `fleet`, oldest first.
        branches: ids of each device branch, oldest first, by encoded device id.
        strict: what another version rendered must be what this one renders.
        next: index of the next commit of each device branch.
        device_commits: how many of them were good.
    """

    objects: StateObjects
    fleet: FleetRepo
    signers: AllowedSigners | None
    chain: tuple[str, ...]
    branches: Mapping[str, tuple[str, ...]]
    strict: bool = False
    next: dict[str, int] = field(default_factory=dict)
    device_commits: int = 0
    signed_by: set[str] = field(default_factory=set)
    _rerender: Rerender = field(init=False)
    _versions_told: set[str] = field(default_factory=set)
    _raised: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rerender = Rerender(self.objects)

    def check(self, index: int) -> list[AuditFinding]:
        """Return everything wrong with one commit of the branch `fleet`; to be called in order."""
        context = Context(self.chain[index])
        found: list[AuditFinding] = []
        try:
            found.extend(self._findings(index, context))
        except MargoGitopsError as error:
            found.append(context.finding("; ".join([error.what, *error.why])))
        except ValueError as error:
            found.append(context.finding(f"no render can make this commit: {error}"))
        return found

    def _findings(self, index: int, context: Context) -> Iterator[AuditFinding]:
        commit = self.objects.commit(context.commit)
        parent = self.chain[index - 1] if index else None
        parents = (parent,) if parent else ()
        if commit.parents != parents:
            yield context.finding("the parents are wrong", " ".join(parents) or "none", " ".join(commit.parents))
        said = StateCommit.of(commit)
        rendered_by = said.rendered_by or ""
        if not _RENDERED_BY.fullmatch(rendered_by):
            yield context.finding(
                f"the trailer {TRAILERS['rendered_by']} is wrong", THIS_VERSION, rendered_by or "nothing"
            )
            rendered_by = THIS_VERSION
        if rendered_by != THIS_VERSION and not self.strict:
            context.severity = "warning"
        context.fleet_commit = said.fleet_commit or ""
        if not self.fleet.knows(context.fleet_commit):
            yield context.finding(
                f"the trailer {TRAILERS['fleet_commit']} is wrong, or this clone of the fleet repo is not whole",
                "a commit of the fleet repo",
                context.fleet_commit or "nothing",
            )
            return
        if parent is not None:
            yield from self._descent(context, parent)
        read = self._read(context)
        context.signed = isinstance(read, FleetInput) and read.intent.fleet.value.spec.signing.required
        yield from self._signature(context, commit, FLEET_REF)
        if isinstance(read, AuditFinding):
            yield read
            return
        made = provenance(read)
        origin = replace(made, origin=replace(made.origin, rendered_by=rendered_by))
        context.before = self.objects.places(self.objects.commit(parent).tree) if parent else {}
        context.after = self.objects.places(commit.tree)
        found = self._compare(context, read.intent)
        yield from found
        if any(each.severity == "error" for each in found):
            yield from _trailers(context, commit, origin.origin.trailers(), FLEET_REF)
            return
        if parent and not context.changed and self.objects.commit(parent).tree == commit.tree:
            yield context.finding("this commit changes nothing, and no render makes such a commit")
        if (root := root_tree(context.after, read.intent.aliases)) != commit.tree:
            yield context.finding("the tree holds what no render writes", root, commit.tree)
        here = folders(read.intent)
        left = sorted(device_of(name) for name, each in context.before.items() if not each.left and name not in here)
        states = sorted(context.changed.values(), key=lambda state: state.device)
        exact = self.strict or rendered_by == THIS_VERSION
        message = fleet_message(states, left, origin)
        expected = Expected(commit.tree, parents, origin, message, exact)
        yield from _metadata(context, commit, expected, FLEET_REF)
        if rendered_by != THIS_VERSION and (found or rendered_by not in self._versions_told):
            self._versions_told.add(rendered_by)
            same = "this version renders it otherwise" if found else "this version renders the same"
            yield context.finding(f"rendered by another version: {same}", THIS_VERSION, rendered_by, severity="warning")
        for encoded, state in context.changed.items():
            message = device_message(state, context.commit, origin)
            expects = replace(expected, tree=context.after[encoded].tree, message=message)
            yield from self._device(context, encoded, state, expects, reason=encoded in self._raised)

    def _descent(self, context: Context, parent: str) -> Iterator[AuditFinding]:
        last, said = (StateCommit.of(self.objects.commit(each)) for each in (parent, context.commit))
        if said.trust_number < last.trust_number:
            yield context.finding(
                f"the trailer {TRAILERS['trust_version']} goes down", last.trust_version, said.trust_version or "none"
            )
        before = last.fleet_commit or ""
        if before != context.fleet_commit and not self.fleet.is_ancestor(before, context.fleet_commit):
            yield context.finding(
                "the fleet commit does not build on the one rendered before it (render --allow-older)",
                f"a descendant of {before[:12]}",
                context.fleet_commit[:12],
                severity="warning",
            )

    def _read(self, context: Context) -> FleetInput | AuditFinding:
        context.signers = self.signers
        try:
            with without_collections():
                tree = self.fleet.tree(context.fleet_commit)
                intent = read_fleet(tree)
                context.signers = self.signers or state_signers(tree, intent.fleet.value.metadata.name)
                return FleetInput(self.fleet, self.fleet.commit(context.fleet_commit), tree, intent)
        except MargoGitopsError as error:
            return _refused(context, error)

    def _compare(self, context: Context, intent: Intent) -> list[AuditFinding]:
        """Find the state of each device whose tree changed; return what is wrong with the tree (VERIFY-2, VERIFY-5)."""
        self._raised.clear()
        try:
            rendered = self._rerender(intent, context.before, context.after)
        except MargoGitopsError as error:
            found = [_refused(context, error)]
            if context.severity == "error":
                return found
            rendered = {}
        else:
            found = []
        here = folders(intent)
        for encoded in sorted({*here, *context.before, *context.after}):
            found += self._place(context, encoded, here.get(encoded, LEFT_FOLDER), rendered.get(encoded))
        if found and context.severity == "warning":
            found += self._sound(context)
        return found

    def _place(self, context: Context, encoded: str, folder: str, state: DesiredState | None) -> Iterator[AuditFinding]:
        was, now = context.before.get(encoded), context.after.get(encoded)
        if now is None:
            yield context.finding("the device is missing", file=f"{folder}/{encoded}")
            return
        if was is None and folder == LEFT_FOLDER:
            yield context.finding("the fleet commit has no such device", file=f"{now.folder}/{encoded}")
            return
        if now.folder != folder:
            yield context.finding("the device is in another folder", folder, now.folder, file=f"{now.folder}/{encoded}")
        if state is not None and not state.changed and was is not None and now.tree != was.tree:
            again = raised(state)
            if device_tree_id(again.manifest, again.deployments) == now.tree:
                self._raised.add(encoded)
                state = again
        kept = was.tree if was else None
        tree = device_tree_id(state.manifest, state.deployments) if state and state.changed else kept
        if tree == now.tree:
            if state is not None and state.changed:
                context.changed[encoded] = state
                for blob in DeviceTree(self.objects, now.tree).files.values():
                    self.objects.read(blob, BLOB)
            return
        place = f"{now.folder}/{encoded}"
        differences = list(files_differ(self.objects, place, self._files(state, was), now.tree))
        yield from map(context.of_tree, differences)
        if not differences:
            yield context.finding("the tree is another one", tree, now.tree, file=place, severity=context.severity)

    def _files(self, state: DesiredState | None, was: DevicePlace | None) -> dict[str, bytes]:
        if state is not None:
            documents = {deployment_path(name): each for name, each in state.deployments.items()}
            return {MANIFEST_FILE: state.manifest, **documents}
        held = DeviceTree(self.objects, was.tree).files if was else {}
        return {path: self.objects.read(name, BLOB) for path, name in held.items()}

    def _sound(self, context: Context) -> Iterator[AuditFinding]:
        """Check what another version rendered as far as that can be: versions, digests, and that no file is more."""
        context.changed.clear()
        for encoded, now in context.after.items():
            was = context.before.get(encoded)
            if was is not None and was.tree == now.tree:
                continue
            version = (manifest_version(DeviceTree(self.objects, was.tree).manifest) or 0) + 1 if was else 1
            place = f"{now.folder}/{encoded}"
            for each in unsound(self.objects, place, now.tree, version):
                yield replace(context.of_tree(each), severity="error")
            site = now.folder.removeprefix(f"{DEVICES_FOLDER}/")
            manifest = DeviceTree(self.objects, now.tree).manifest
            context.changed[encoded] = DesiredState(device_of(encoded), site, version, manifest, {}, changed=True)

    def _device(
        self, context: Context, encoded: str, state: DesiredState, expected: Expected, *, reason: bool
    ) -> Iterator[AuditFinding]:
        """Check the next commit on a device's branch (VERIFY-4)."""
        ref = f"{DEVICE_REFS}{encoded}"
        branch, at = self.branches.get(encoded, ()), self.next.get(encoded, 0)
        if at >= len(branch):
            what = "the branch was moved back: it lacks the commit of this render" if branch else "the branch is gone"
            yield context.finding(what, f"manifest {state.version}", branch[-1] if branch else "nothing", ref=ref)
            return
        self.next[encoded] = at + 1
        commit = self.objects.commit(branch[at])
        parents = branch[at - 1 : at] if at else ()
        if (brought := StateCommit.of(commit).state_commit) != context.commit:
            found = f"{branch[at]} of {brought or 'no render'}"
            yield context.finding("the branch was moved: its next commit is of another render", None, found, ref=ref)
            return
        if commit.tree != expected.tree:
            yield context.finding("the tree is not the fleet commit's", expected.tree, commit.tree, ref=ref)
        if commit.parents != parents:
            yield context.finding("the parents are wrong", " ".join(parents), " ".join(commit.parents), ref=ref)
        yield from _metadata(context, commit, replace(expected, parents=parents), ref)
        key = yield from self._signature(context, commit, ref)
        if reason:
            signed_before = commit_signer(self.objects.commit(branch[at - 1]), None).key if at else None
            if key is None or key == signed_before:
                yield context.finding(
                    "the version went up without a change, and not to sign it",
                    str(state.version - 1),
                    str(state.version),
                    ref=ref,
                )
        self.device_commits += 1

    def _signature(
        self, context: Context, commit: GitCommit, ref: str
    ) -> Generator[AuditFinding, None, SshPublicKey | None]:
        signed = commit_signer(commit, context.signers)
        if signed.objection:
            yield context.finding(f"the signature does not count: {signed.objection}", ref=ref)
        elif signed.key is None and context.signed:
            yield context.finding("the commit is not signed, and the fleet commit wants signed state", ref=ref)
        if signed.signer is not None:
            self.signed_by.add(signed.signer)
        return signed.key


def _refused(context: Context, error: MargoGitopsError) -> AuditFinding:
    why = "; ".join(error.why[:3])
    return context.finding(
        f"the fleet commit cannot be rendered: {error.what}" + (f": {why}" if why else ""), severity=context.severity
    )


def _trailers(context: Context, commit: GitCommit, expected: Mapping[str, str], ref: str) -> Iterator[AuditFinding]:
    for name in dict.fromkeys([*expected, *commit.trailers]):
        wanted, found = expected.get(name), commit.trailers.get(name)
        if wanted != found:
            yield context.finding(f"the trailer {name} is wrong", wanted or "none", found or "none", ref=ref)


def _metadata(context: Context, commit: GitCommit, expected: Expected, ref: str) -> Iterator[AuditFinding]:
    """Yield how a commit differs from the one that the render makes (VERIFY-3)."""
    found = list(_trailers(context, commit, parse_trailers(expected.message), ref))
    origin = expected.origin
    for what, ours, theirs in (
        ("the author", origin.author, commit.author),
        ("the committer", origin.committer, commit.committer),
    ):
        if ours != theirs:
            found.append(context.finding(f"{what} is wrong", _ident(ours), _ident(theirs), ref=ref))
    payload = build_commit(expected.tree, expected.parents, origin.author, origin.committer, expected.message)
    if not found and expected.exact and commit.payload != payload and commit.tree == expected.tree:
        lines = zip([*expected.message.split("\n"), ""], [*commit.message.split("\n"), ""], strict=False)
        ours_line, their_line = next((pair for pair in lines if pair[0] != pair[1]), (None, None))
        found.append(context.finding("the message or the headers are wrong", ours_line, their_line, ref=ref))
    yield from found


def _ident(ident: Ident) -> str:
    return f"{ident} {ident.time} {ident.offset:+d} min"

"""The state repo's layout: its branches, names of folders and files, and how much state one device may have.

A device's tree holds `manifest.json`, and `deployments/<deployment id>.yaml` for each deployment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.values import dataclass

_SCP_LIKE = re.compile(r"[^/:\s]+@?[^/:\s]*:(?!//).+")
BRANCHES: Final = "refs/heads/"
FLEET_REF: Final = f"{BRANCHES}fleet"
DEVICE_REFS: Final = f"{BRANCHES}devices/"
FRESHNESS_REFS: Final = f"{BRANCHES}freshness/"
TRUST_REF: Final = f"{BRANCHES}trust"
TRUST_PATH: Final = "/api/v1/trust/"
"""Where the HTTP API and a device's static files have the trust documents, by the names they have in the branch."""
REPORTS_REF: Final = f"{BRANCHES}reports"
DEVICE_REPORTS_REFS: Final = f"{BRANCHES}device-reports/"
CHECKPOINTS_REF: Final = f"{BRANCHES}checkpoints"


@dataclass(frozen=True, slots=True)
class StateBranch:
    """A branch of the state repo, or a folder of branches.

    Attributes:
        name: full name; a folder's ends in a slash.
        rendered: whether a render alone decides what it holds.
        served: whether devices read it.
        replaced: whether only its newest commit counts: it is moved by force, and never restored.
        reported: whether it holds what devices say, and not what they are to run: who renders does not move it.
    """

    name: str
    rendered: bool = False
    served: bool = False
    replaced: bool = False
    reported: bool = False


STATE_BRANCHES: Final = (
    # One commit per render; its tree: devices/<site>/<device>/, left/<device>/, and aliases.json if there are aliases.
    StateBranch(FLEET_REF, rendered=True, served=True),
    # One commit per change of a device; its tree is the one in the fleet branch.
    StateBranch(DEVICE_REFS, rendered=True, served=True),
    # The newest statement of freshness of a shard: freshness.json.
    StateBranch(FRESHNESS_REFS, served=True, replaced=True),
    # The fleet's trust documents: <version>.json for each.
    StateBranch(TRUST_REF, served=True),
    # One commit per `state compact`; its tree: boundary.
    StateBranch(CHECKPOINTS_REF),
    # What devices reported to servers.
    StateBranch(REPORTS_REF, reported=True),
    # What a device pushed itself (docs/git-subset.md, G-P): one commit without parents.
    StateBranch(DEVICE_REPORTS_REFS, replaced=True, reported=True),
)
_BY_NAME: Final = {each.name: each for each in STATE_BRANCHES}


def state_refs(values: Mapping[str, str], which: Callable[[StateBranch], bool]) -> dict[str, str]:
    """Return the refs, full names and commits, that are of such branches of the state repo."""

    def branch(ref: str) -> StateBranch | None:
        head, slash, _ = ref.removeprefix(BRANCHES).partition("/")
        return _BY_NAME.get(f"{BRANCHES}{head}{slash}")

    return {ref: value for ref, value in values.items() if (found := branch(ref)) and which(found)}


def carried_refs(values: Mapping[str, str]) -> dict[str, str]:
    """Return the refs that a copy of the state repo holds: all but what devices reported."""
    return state_refs(values, lambda branch: not branch.reported)


MANIFEST_FILE: Final = "manifest.json"
DEPLOYMENTS_FOLDER: Final = "deployments"
DEPLOYMENT_SUFFIX: Final = ".yaml"
FRESHNESS_FILE: Final = "freshness.json"
BOUNDARY_FILE: Final = "boundary"
"""The oldest commit that stays of each branch whose history was cut, with the branch: as `git show-ref` prints them."""

COMMITS_PATH: Final = "/api/v1/commits"
"""Where the HTTP API has the commit of a state, by the digest of its manifest; its folder of static files, too."""
COMMIT_HEADER: Final = "Signed-Commit"
"""On an answer with a manifest: the same bytes in base64, where the commit is signed and not too long."""
BOOT_HEADER: Final = "Device-Boot"
"""On requests of an enrolled device: the kernel's id of its boot."""
COMMIT_MEDIA_TYPE: Final = "application/vnd.margo-gitops.commit.v1"

RECEIPTS_PATH: Final = "/api/v1/receipts"
"""Where the HTTP API takes the receipts of the device that calls."""

ALIASES_FILE: Final = "aliases.json"
"""What devices call themselves, by their names in the fleet."""
DEVICES_FOLDER: Final = "devices"
LEFT_FOLDER: Final = "left"
"""Holds the last state of each device that left the fleet."""
NO_SITE: Final = "_"
"""The folder of devices that have no site."""


def trust_file(version: int) -> str:
    """Return the name of the file that a version of the trust document has."""
    return f"{version}.json"


def device_ref(device: str) -> str:
    """Return the full name of the branch that a device reads."""
    return DEVICE_REFS + encode_device_id(device)


def device_reports_ref(device: str) -> str:
    """Return the full name of the branch that a device pushes its reports to."""
    return DEVICE_REPORTS_REFS + encode_device_id(device)


def deployment_path(deployment_id: str) -> str:
    """Return the path of a deployment document in a device's tree."""
    return f"{DEPLOYMENTS_FOLDER}/{deployment_id}{DEPLOYMENT_SUFFIX}"


def write_aliases(aliases: Mapping[str, str]) -> bytes:
    """Return the exact bytes of `aliases.json`."""
    return json.dumps(dict(aliases), sort_keys=True, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class StateBounds:
    """How much state one device accepts (TRUST-1): the same however it is fetched.

    Attributes:
        manifest_bytes: size of the manifest.
        deployment_bytes: size of each deployment.
        deployments: how many there are.
        total_bytes: size of the manifest and all deployments together.
    """

    manifest_bytes: int = 1024 * 1024
    deployment_bytes: int = 1024 * 1024
    deployments: int = 1000
    total_bytes: int = 8 * 1024 * 1024


def is_remote(location: str) -> bool:
    """Return whether a state repo's location is a URL (or `host:path`, as for ssh), and not a path."""
    return "://" in location or (_SCP_LIKE.fullmatch(location) is not None and not location.startswith((".", "/")))

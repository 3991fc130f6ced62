"""The state repo's layout: names of branches, folders and files, and how much state one device may have.

    refs/heads/fleet                  one commit per render; its tree holds devices/<site>/<device>/ and left/<device>/,
                                      and aliases.json, if a device has an alias
    refs/heads/devices/<device>       one commit per change of the device; its tree is the one in the fleet branch
    refs/heads/freshness/<shard>      the newest statement of freshness: freshness.json
    refs/heads/trust                  the fleet's trust documents: <version>.json for each
    refs/heads/reports                what devices reported
    refs/heads/checkpoints            one commit per `state compact`; its tree holds boundary

A device's tree holds `manifest.json`, and `deployments/<deployment id>.yaml` for each deployment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from margo_gitops.documents.device_id import encode_device_id

BRANCHES: Final = "refs/heads/"
FLEET_REF: Final = f"{BRANCHES}fleet"
DEVICE_REFS: Final = f"{BRANCHES}devices/"
FRESHNESS_REFS: Final = f"{BRANCHES}freshness/"
TRUST_REF: Final = f"{BRANCHES}trust"
TRUST_PATH: Final = "/api/v1/trust/"
"""Where the HTTP API and a device's static files have the trust documents, by the names they have in the branch."""
REPORTS_REF: Final = f"{BRANCHES}reports"
CHECKPOINTS_REF: Final = f"{BRANCHES}checkpoints"

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
COMMIT_MEDIA_TYPE: Final = "application/vnd.margo-gitops.commit.v1"

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

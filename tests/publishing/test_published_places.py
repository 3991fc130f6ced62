"""What a state repo names never becomes a place outside a device's folder (LAYOUT-1, LAYOUT-2)."""

from __future__ import annotations

import pytest

from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.manifest import write_manifest
from margo_gitops.errors import MargoGitopsError
from margo_gitops.publishing.layout import read_manifest

ID = "90c17a5a-9354-5c1b-963b-eb95d63dc06d"


@pytest.mark.parametrize("name", ["../../../../x", "/etc/x", "..", "a/b", "%2e%2e", ID + "/.."])
def test_a_deployments_name_leads_nowhere_else(name: str) -> None:
    good = write_manifest(1, {ID: b"x"})
    assert all(each.path.startswith("api/v1/") and ".." not in each.path for each in read_manifest(good, "m").objects)
    with pytest.raises(MargoGitopsError):
        read_manifest(good.replace(ID.encode(), name.encode()), "m")


@pytest.mark.parametrize("device", ["..", ".", "../x", "a/../b", "_freshness", "~", "a..b"])
def test_a_devices_folder_is_one_name(device: str) -> None:
    encoded = encode_device_id(device)
    assert "/" not in encoded
    assert encoded not in ("..", ".", "_freshness")

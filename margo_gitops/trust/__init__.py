"""Decide whether a device may believe what it fetched: pure, from bytes, policy and floor to a trusted state.

Other packages may import the names in `__all__`; each is loaded when it is asked for. `trusted_state.py` has the rules,
`TrustedState` shows a session.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "AllowedSigners",
    "Floor",
    "SigningKey",
    "Snapshot",
    "StateBounds",
    "StateCommit",
    "TrustPolicy",
    "TrustRefused",
    "TrustedState",
    "judge",
    "parse_allowed_signers",
    "parse_signing_key",
    "read_floor",
    "write_floor",
]

if TYPE_CHECKING:
    from margo_gitops.documents.state_layout import StateBounds
    from margo_gitops.errors import TrustRefused
    from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
    from margo_gitops.trust.floor import Floor, read_floor, write_floor
    from margo_gitops.trust.snapshot import Snapshot
    from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key
    from margo_gitops.trust.state_commit import StateCommit
    from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge
else:
    _HOMES = {
        "margo_gitops.documents.state_layout": ("StateBounds",),
        "margo_gitops.errors": ("TrustRefused",),
        "margo_gitops.trust.allowed_signers": ("AllowedSigners", "parse_allowed_signers"),
        "margo_gitops.trust.floor": ("Floor", "read_floor", "write_floor"),
        "margo_gitops.trust.snapshot": ("Snapshot",),
        "margo_gitops.trust.ssh_key": ("SigningKey", "parse_signing_key"),
        "margo_gitops.trust.state_commit": ("StateCommit",),
        "margo_gitops.trust.trusted_state": ("TrustPolicy", "TrustedState", "judge"),
    }

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

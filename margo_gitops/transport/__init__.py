"""Ways to fetch a snapshot of a device's desired state: by git (`git`), or over HTTP (`http`).

Other packages may import the names in `__all__`; each is loaded when it is asked for. `transport.py` is the contract.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Answer",
    "Cost",
    "GitLimits",
    "GitSource",
    "GitTransport",
    "HttpLimits",
    "HttpSource",
    "HttpTransport",
    "PollHints",
    "ProofSource",
    "Snapshot",
    "Transport",
]

if TYPE_CHECKING:
    from margo_gitops.transport.git.git_transport import GitTransport
    from margo_gitops.transport.git.source import GitLimits, GitSource
    from margo_gitops.transport.http.http_transport import HttpTransport
    from margo_gitops.transport.http.source import HttpLimits, HttpSource
    from margo_gitops.transport.transport import Answer, PollHints, ProofSource, Transport
    from margo_gitops.trust.snapshot import Snapshot
    from margo_gitops.web.metering import Cost
else:
    _HOMES = {
        "margo_gitops.transport.git.git_transport": ("GitTransport",),
        "margo_gitops.transport.git.source": ("GitLimits", "GitSource"),
        "margo_gitops.transport.http.http_transport": ("HttpTransport",),
        "margo_gitops.transport.http.source": ("HttpLimits", "HttpSource"),
        "margo_gitops.transport.transport": ("Answer", "PollHints", "ProofSource", "Transport"),
        "margo_gitops.trust.snapshot": ("Snapshot",),
        "margo_gitops.web.metering": ("Cost",),
    }

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

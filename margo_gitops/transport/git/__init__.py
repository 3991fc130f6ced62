"""Pull by git: a small subset of protocol version 2 over http(s) and ssh, or from a folder."""

from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.git.limits import GitLimits
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.web.cost import Cost

__all__ = ["Cost", "GitLimits", "GitSource", "GitTransport"]

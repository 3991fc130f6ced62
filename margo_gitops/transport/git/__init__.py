"""Pull by git: a small subset of protocol version 2 over http(s) and ssh, or from a folder."""

from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.git.source import GitLimits, GitSource
from margo_gitops.web.metering import Cost

__all__ = ["Cost", "GitLimits", "GitSource", "GitTransport"]

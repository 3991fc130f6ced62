"""The tree of errors that people meet.

Every error says *what* went wrong, *where* (file, line, column; device), *why*, and what to do next, and carries as
data the exit code a command ends with. The first paragraph of a class docstring is its title in `docs/errors.md`, the
rest is the page's text; a test keeps the two together. Codes are stable: a code is never reused for another meaning.
"""

# Every public name of these modules; each is written once, where it is defined.
from margo_gitops.errors.agent import *
from margo_gitops.errors.apply import *
from margo_gitops.errors.audit import *
from margo_gitops.errors.base import *
from margo_gitops.errors.carried import *
from margo_gitops.errors.cluster import *
from margo_gitops.errors.conformance import *
from margo_gitops.errors.content import *
from margo_gitops.errors.documents import *
from margo_gitops.errors.editing import *
from margo_gitops.errors.fleet_repo import *
from margo_gitops.errors.publishing import *
from margo_gitops.errors.registry import *
from margo_gitops.errors.rendering import *
from margo_gitops.errors.server import *
from margo_gitops.errors.state_repo import *
from margo_gitops.errors.transport import *
from margo_gitops.errors.trust import *

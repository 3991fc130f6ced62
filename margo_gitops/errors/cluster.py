"""MG163x: Kubernetes clusters."""

from __future__ import annotations

from margo_gitops.errors.apply import ApplyError


class ClusterError(ApplyError):
    """Base of what an API server refuses, or does not have.

    You see one of the codes that follow. What ran before keeps running.
    """

    code = "MG1639"


class ClusterRefusesAgent(ClusterError):
    """The API server does not know the agent, or does not let it do something.

    A token or certificate that has expired is answered with 401: renew it; the agent reads it again at its next cycle.
    A right that is missing is answered with 403: the message names verb, kind and namespace. Give it to the agent's
    service account with a Role. Workloads keep running, and the agent tries again.
    """

    code = "MG1630"


class ManifestInvalid(ClusterError):
    """A Kubernetes manifest cannot be used.

    Its file is not YAML or JSON, or an object has no name or appears twice. Or a parameter names a field that is not
    there, or the API server finds a mistake. The message names file and line, and what the server says. Nothing was
    changed.
    """

    code = "MG1631"


class FieldConflict(ClusterError):
    """Another program or person owns fields that a manifest sets to another value.

    The message names each field and its owner. The agent takes a field only to repair what it installed itself
    (`spec.onDrift: repair`). Remove the field from the manifest, or remove it from what the other owner applies. What
    ran before keeps running.
    """

    code = "MG1632"


class ObjectOfOthers(ClusterError):
    """An object of this name is in the cluster already, and the agent did not make it for this component.

    The agent never takes over what others made. Give the object another name or namespace, or delete it if it is not
    needed. Nothing was changed.
    """

    code = "MG1633"


class KindMissing(ClusterError):
    """The API server does not have the kind or the API version that a manifest names.

    Older versions of an API end with newer servers, and kinds of an operator come with its CRDs. The message names the
    versions that the server has. Change `apiVersion` in the manifest, or install what brings the kind. Nothing was
    changed.
    """

    code = "MG1634"


class ClusterRefusesObject(ClusterError):
    """The cluster does not accept an object: a quota is used up, a policy or webhook refuses it, or its namespace ends.

    The message has what the server says. Correct the object, raise the quota, or change the policy. What ran before
    keeps running, and the agent tries again after a pause.
    """

    code = "MG1635"


class ObjectMissing(ClusterError):
    """An object, or the namespace it belongs to, is not in the cluster any more.

    Something deleted it at the same time. The agent looks again at its next cycle. If it comes back, find out who
    deletes it.
    """

    code = "MG1636"


class ListExpired(ClusterError):
    """The API server forgot the state of a list before the agent had read all of it (410).

    The agent reads the list again from its start. You see this code only if that fails several times, because the
    server is overloaded.
    """

    code = "MG1637"


class FieldImmutable(ClusterError):
    """An update changes a field that Kubernetes lets no one change, such as the selector of a Deployment.

    The message names the field. Give the object another name in the manifest: the new one is made, and the old one is
    deleted when the new one is ready. Jobs are replaced without that. Nothing was changed.
    """

    code = "MG1638"

"""What an API server refuses, as errors of this project. Pure.

Source: Kubernetes API conventions, Response Status Kind; the messages of its admission plug-ins.
"""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.documents.kubernetes_objects import list_at, mapping_at, text_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import (
    ApplyError,
    ClusterRefusesAgent,
    ClusterRefusesObject,
    EngineUnavailable,
    FieldConflict,
    FieldImmutable,
    ListExpired,
    ManifestInvalid,
    ObjectMissing,
)
from margo_gitops.errors.base import listed
from margo_gitops.wording import shortened

_RIGHT: Final = re.compile(r"cannot [a-z]+ resource|cannot [a-z]+ path|attempting to grant RBAC permissions")
_WEBHOOK: Final = re.compile(r"failed calling webhook|failed to call webhook")
_DENIED: Final = re.compile(r"denied (the )?request|denied request|ValidatingAdmissionPolicy")
_TYPED: Final = re.compile(r"failed to create typed patch object|failed to create manager for existing fields")
_VALUE: Final = re.compile(r"&value\.\S+\{.*?\}")
_MANAGER: Final = re.compile(r'conflict with "([^"]*)"')
_FIXED: Final = re.compile(r"immutable|updates to|may not change|cannot change|can not change")
_PLAIN: Final = (401, 408, 429, 500, 502, 503, 504)
"""Of these, an answer without a `Status` means the same."""
_NO_PATH: Final = "404 page not found"
_LONGEST: Final = 600


def refusal(status: int, answer: Json, request: str, about: str = "") -> ApplyError:
    """Return why a request was refused.

    Args:
        status: of the answer, 300 or more.
        answer: a `Status`, or any answer of a proxy.
        request: its method and path.
        about: what it was about, for people.
    """
    said = shortened(text_at(answer, "message") or f"the server answers {status} to {request}", _LONGEST)
    what = about or request
    causes = [mapping_at(each) for each in list_at(answer, "details", "causes")]
    if _DENIED.search(said):  # a webhook chooses the status itself
        return _refused(status, what, said, causes)
    is_servers = text_at(answer, "kind") == "Status" or status in _PLAIN or (status == 404 and said == _NO_PATH)
    if status < 400 or not is_servers:
        return EngineUnavailable(
            "something other than the API server of the cluster answers",
            why=[f"it answers {status} to {request}", *([said] if text_at(answer, "message") else [])],
            remedy="check the address in the kubeconfig, and what is between it and the device",
        )
    match status:
        case 401:
            return ClusterRefusesAgent(
                "the API server does not know the agent",
                why=[said],
                remedy="renew the token or certificate of the kubeconfig; the agent reads it again at its next cycle",
            )
        case 404:
            return ObjectMissing(f"{what} is not there", why=[said])
        case 409:
            return _conflict(what, said, causes)
        case 410:
            return ListExpired(f"{what} must be read again", why=[said])
        case 500 if _TYPED.search(said):
            return ManifestInvalid(
                f"the API server finds a mistake in {what}",
                why=[_VALUE.sub("another type", said)],
                remedy="correct the manifest",
            )
        case 500 if _WEBHOOK.search(said):
            return EngineUnavailable(
                f"a webhook of the cluster does not answer, so {what} cannot be changed",
                why=[said],
                remedy="start the webhook's service, or delete its configuration; the agent tries again",
            )
        case 408 | 429 | 500 | 502 | 503 | 504:
            return EngineUnavailable(
                f"the API server cannot answer now ({status})", why=[said], remedy="wait: the agent tries again"
            )
    return _refused(status, what, said, causes)


def _conflict(what: str, said: str, causes: list[dict[str, Json]]) -> ApplyError:
    conflicts = [each for each in causes if each.get("reason") == "FieldManagerConflict"]
    if not conflicts:
        return EngineUnavailable(
            f"{what} was changed or is being deleted at the same time",
            why=[said],
            remedy="wait: the agent tries again after a pause",
        )
    lines = []
    for each in conflicts:
        manager = _MANAGER.search(text_at(each, "message"))
        lines.append(f"{text_at(each, 'field').removeprefix('.')}: {manager[1] if manager else said}")
    return FieldConflict(
        f"others own fields of {what}",
        why=listed(lines),
        remedy="take these fields out of the manifest, or out of what their owners apply",
    )


def _refused(status: int, what: str, said: str, causes: list[dict[str, Json]]) -> ApplyError:
    """Return why an object, or the agent, is refused: 400, 403, 422 and what no other rule knows."""
    if status == 403 and _RIGHT.search(said):
        return ClusterRefusesAgent(
            f"the agent may not do this in the cluster: {what}",
            why=[said],
            remedy="give the agent's user this right with a Role; `kubectl auth can-i --list` shows what it has",
        )
    if status in (400, 422) and not _DENIED.search(said):
        if _FIXED.search(said):
            return FieldImmutable(
                f"the update changes a field of {what} that cannot be changed",
                why=[said],
                remedy="give the object another name in the manifest",
            )
        return ManifestInvalid(f"the API server finds a mistake in {what}", why=[said], remedy="correct the manifest")
    if any(each.get("reason") == "NamespaceTerminating" for each in causes) or "being terminated" in said:
        remedy = "wait until the namespace is gone; `kubectl get namespace NAME -o yaml` shows what keeps it"
    elif "exceeded quota" in said:
        remedy = "raise the quota of the namespace, or ask for less in the manifest"
    elif "webhook" in said:
        remedy = "correct the manifest, or ask who runs the webhook"
    else:
        remedy = "correct the manifest, or change the policy of the namespace"
    return ClusterRefusesObject(f"the cluster refuses {what}", why=[said], remedy=remedy)

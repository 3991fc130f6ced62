"""Credentials as git's clients send them: Basic, with the token as password (RFC 7617; git subset, G-A-3)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from margo_gitops.server.identity.callers import header
from margo_gitops.server.problems import Problem

if TYPE_CHECKING:
    from starlette.types import Scope

_MAX_HEADER: Final = 2048
_AUTHORIZATION: Final = b"authorization"

ASK_FOR_TOKEN: Final = Problem(
    401,
    "Not authorized",
    "not-authorized",
    headers=(("WWW-Authenticate", 'Basic realm="margo-gitops", charset="UTF-8"'),),
)
"""The refusal that makes git and its like send the credentials they have (G-A-4)."""


def with_bearer(scope: Scope) -> Scope:
    """Return a request whose Basic password, if it has one, is the bearer token that it stands for."""
    value = header(scope, _AUTHORIZATION) or ""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic" or len(value) > _MAX_HEADER:
        return scope
    try:
        password = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return scope
    others = [(name, content) for name, content in scope["headers"] if name != _AUTHORIZATION]
    return {**scope, "headers": [*others, (_AUTHORIZATION, b"Bearer " + password)]}

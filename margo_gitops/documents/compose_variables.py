"""What a parameter is to a compose file: the variable that a pointer names, and what a variable can hold. Pure.

Source: Margo application description, pointer (of a compose component: the name of an environment variable).
"""

from __future__ import annotations

import json
import re

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.yaml_scalars import write_number

MAX_VARIABLE_BYTES = 128 * 1024 - 1
"""Of a variable, `NAME=VALUE`: Linux starts no program with a longer one (MAX_ARG_STRLEN, with the NUL at its end)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# These steer the client itself; COMPOSE_PROFILES is meant for the compose file.
_RESERVED = re.compile(
    r"PATH|HOME|XDG_RUNTIME_DIR|LD_.*|DOCKER_.*|COMPOSE_(?!PROFILES$).*|BUILDX_.*|BUILDKIT_.*|PODMAN_.*|CONTAINERS?_.*"
)


def variable_name(pointer: str) -> str:
    """Return the variable that a pointer names; older descriptions write `ENV.NAME`."""
    return pointer.removeprefix("ENV.")


def pointer_problem(pointer: str) -> str:
    """Return why no applier can set what a pointer names; empty where it can be set."""
    name = variable_name(pointer)
    if not _NAME.fullmatch(name):
        return "is not the name of an environment variable"
    return "is a variable that steers Compose itself" if _RESERVED.fullmatch(name) else ""


def value_problem(pointer: str, value: ParameterValue) -> str:
    """Return why a variable cannot hold a value; empty where it can."""
    if not isinstance(value, (str, tuple)):
        return ""
    text = parameter_text(value)
    if "\0" in text:
        return "gets a value with a NUL, which no environment variable can hold"
    size = len(f"{variable_name(pointer)}={text}".encode(errors="replace"))
    if size > MAX_VARIABLE_BYTES:
        return f"gets a value of {len(text)} characters; an environment variable holds {MAX_VARIABLE_BYTES} bytes"
    return ""


def parameter_text(value: ParameterValue) -> str:
    """Return a value as the text of an environment variable.

    Texts as they are; true and false; numbers in their shortest form; lists as one line of JSON.
    """
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else write_number(value)

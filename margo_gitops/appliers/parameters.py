"""Parameter values as text, for environments that know nothing else."""

from __future__ import annotations

import json

from margo_gitops.documents.application import ParameterValue
from margo_gitops.documents.yaml_scalars import write_number


def parameter_text(value: ParameterValue) -> str:
    """Return a value as the text of an environment variable.

    Texts as they are; true and false; numbers in their shortest form; lists as one line of JSON.
    """
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else write_number(value)

"""What a person types into a form, as values: on top of what `deploy --set` takes, numbers of a list, yes and no."""

from __future__ import annotations

import json
import re

from margo_gitops.documents.application import ApplicationDescription, ParameterValue, ValueSchema
from margo_gitops.editing.values import typed_value
from margo_gitops.errors import AnswerRefused

_PICKS = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?([\s,]+[0-9]{1,6}(-[0-9]{1,6})?)*")
_TRUTH = {"y": "true", "yes": "true", "n": "false", "no": "false"}


def typed_answer(
    description: ApplicationDescription, name: str, schema: ValueSchema | None, text: str
) -> ParameterValue:
    """Return a parameter's value, checked by the application's rules.

    Args:
        description: of the application.
        name: of the parameter.
        schema: of the setting that is asked for; None where there is none.
        text: what was typed. An option of a list can be named by its number, if no option is spelled so.

    Raises:
        ParameterNotTyped: it has not the type, or breaks a rule.
    """
    if schema is not None and schema.options is not None:
        text = _options(schema, text)
    elif schema is not None and schema.data_type == "boolean":
        text = _TRUTH.get(text.lower(), text)
    return typed_value(description, name, text)


def _options(schema: ValueSchema, text: str) -> str:
    """Return text with the numbers of options replaced by these."""
    spelled = [_spelled(option) for option in schema.options or ()]
    if not schema.multiselect:
        return _option(spelled, text)
    if text.strip().startswith("[") or "{{" in text:
        return text
    # As JSON, because an option may hold a comma.
    parts = [text] if text in spelled else [part.strip() for part in text.split(",") if part.strip()]
    return json.dumps([_option(spelled, part) for part in parts], ensure_ascii=False)


def _option(spelled: list[str], text: str) -> str:
    if text in spelled or not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= len(spelled):
        return text
    return spelled[int(text) - 1]


def _spelled(option: str | float) -> str:
    return str(option).lower() if isinstance(option, bool) else str(option)


def picked(text: str, most: int) -> tuple[int, ...] | None:
    """Return the numbers of `1, 3-5`, in the order typed, each once; None where the text is something else.

    Args:
        text: what was typed.
        most: the greatest number that there is.

    Raises:
        AnswerRefused: a number is not in the list.
    """
    if not _PICKS.fullmatch(text.strip()):
        return None
    numbers: list[int] = []
    for part in re.split(r"[\s,]+", text.strip()):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= most:
            raise AnswerRefused(f"{part} is no number of the list", remedy=f"name some of 1 to {most}")
        numbers += range(low, high + 1)
    return tuple(dict.fromkeys(numbers))

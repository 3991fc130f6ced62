"""The questions of a form in words, as lines for a terminal; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from margo_gitops.documents.constraints import DeviceSelector, MatchExpression
from margo_gitops.editing.form.form import Form, ParameterQuestion, PlacementQuestion, ProfileQuestion
from margo_gitops.operations.catalog_text import refusal_lines, shown_value
from margo_gitops.wording import counted, json_text, printable, table_lines

LISTED: Final = 20
"""Devices that are shown to choose from; `:list` shows all."""

HELP: Final = (
    "Enter        keeps what is there",
    ":default     takes the value out of the deployment: another layer, or the application's default, gives it",
    ":empty       sets an empty text, or a list of nothing",
    ":back        goes back to the question before",
    ":list        shows all devices, and why some of them cannot take the application",
    "::text       is the text :text",
    "Ctrl-C       ends; nothing is written",
    "Text with {{ … }} is an expression: {{ device.id }}, {{ device.labels.line }}, {{ site.name }}.",
    "A list is a,b,c or a JSON list.",
)


def title_lines(form: Form) -> Iterator[str]:
    """Yield what the form is about."""
    target = form.target
    what = f"a new deployment {target.name}" if target.known is None else f"change the deployment {target.name}"
    yield f"{target.description.metadata.name} {target.version}: {what}"
    if target.known is not None and target.known.value.spec.application.version != target.version:
        yield f"  it runs {target.known.value.spec.application.version} now"
    yield "  Enter keeps what is there; :help says what else can be typed."


def question_lines(form: Form) -> Iterator[str]:
    """Yield the question that is asked; nothing where the form is filled in."""
    question = form.question
    if isinstance(question, ParameterQuestion):
        yield from _parameter_lines(form, question)
    elif isinstance(question, PlacementQuestion):
        yield from _placement_lines(form)
    elif isinstance(question, ProfileQuestion):
        yield from _profile_lines(form, question)


def prompt_text(form: Form) -> str:
    """Return what is before the cursor."""
    question = form.question
    if isinstance(question, ParameterQuestion):
        return printable(question.setting.parameter)
    return "devices" if isinstance(question, PlacementQuestion) else "profiles, best first"


def all_devices(form: Form) -> Iterator[str]:
    """Yield every device to choose from with its number, and why the others are not."""
    yield from _choices(form, None)
    yield from refusal_lines(form.check.compatible)


def _parameter_lines(form: Form, question: ParameterQuestion) -> Iterator[str]:
    setting, schema = question.setting, question.schema
    yield f"{question.section}: {setting.name}"
    yield from (f"  {line}" for line in (setting.description or "").splitlines())
    if setting.limits:
        yield f"  {setting.limits}"
    if schema is not None and schema.options is not None:
        several = ", several are possible: 1,2" if schema.multiselect else ""
        yield f"  choose by value or number{several}"
        yield from (f"    {number}  {shown_value(option)}" for number, option in enumerate(schema.options, 1))
    if setting.immutable:
        yield "  immutable: it may not change after the first installation"
    value = form.value(setting.parameter)
    if value is not None:
        yield f"  now {shown_value(value)}; the application's default is {shown_value(setting.default)}"
    elif setting.default is not None:
        yield f"  now the application's default {shown_value(setting.default)}"
    else:
        yield "  now without a value"


def _placement_lines(form: Form) -> Iterator[str]:
    yield "Devices"
    if form.placement is not None:
        chosen = form.check.chosen(form.placement)
        yield f"  now {selector_text(form.placement)}  ({counted(len(chosen), 'device')})"
    counts = form.check.compatible.counts
    yield f"  {counts.compatible} of {counted(counts.devices, 'device')} could take it"
    yield from _choices(form, LISTED)
    yield "  Type a selector (line=3,site=north), all, or numbers of this list (1,3-5)."


def _choices(form: Form, most: int | None) -> Iterator[str]:
    devices = [each for each in form.check.compatible.devices if each.compatible]
    rows = [
        (
            str(number).rjust(len(str(len(devices)))),
            f"{each.site}/{each.device}" if each.site else each.device,
            " or ".join(each.profiles),
            f"has {', '.join(each.deployments)}" if each.deployments else "",
        )
        for number, each in enumerate(devices[:most], 1)
    ]
    yield from (f"    {line}" for line in table_lines(rows))
    if most is not None and len(devices) > most:
        yield f"    and {len(devices) - most} more: :list shows all"


def _profile_lines(form: Form, question: ProfileQuestion) -> Iterator[str]:
    yield "Profiles: some of these devices could run several"
    if form.profiles:
        yield f"  now {', '.join(form.profiles)}"
    for number, (name, devices) in enumerate(question.profiles.items(), 1):
        yield f"    {number}  {name}: {counted(devices, 'device')}"
    yield "  Type ids or numbers, the preferred one first (2,1)."


def selector_text(selector: DeviceSelector) -> str:
    """Return a placement as people type it for `--to`; further named devices follow `plus`."""
    if selector.all:
        return "all"
    conditions = []
    if selector.sites:
        conditions.append(_either("site", selector.sites))
    for key, label in selector.match_labels.items():
        conditions.append(f"{key}={_value(label)}")
    conditions += map(_condition, selector.match_expressions)
    parts = [",".join(conditions)] if conditions else []
    if selector.devices:
        more = f" and {len(selector.devices) - LISTED} more" if len(selector.devices) > LISTED else ""
        parts.append(_either("device", selector.devices[:LISTED]) + more)
    return " plus ".join(parts)


def _either(key: str, names: tuple[str, ...]) -> str:
    return f"{key}={names[0]}" if len(names) == 1 else f"{key} in ({', '.join(names)})"


_SIGNS: Final = {"Gt": ">", "Lt": "<"}
_WORDS: Final = {"In": "in", "NotIn": "notin"}


def _condition(expression: MatchExpression) -> str:
    key, values = expression.key, [_value(each) for each in expression.values or ()]
    if expression.operator == "DoesNotExist":
        return f"!{key}"
    if expression.operator in _SIGNS:
        return f"{key}{_SIGNS[expression.operator]}{values[0]}"
    if expression.operator in _WORDS:
        return f"{key} {_WORDS[expression.operator]} ({', '.join(values)})"
    return key if expression.operator == "Exists" else f"{key} {expression.operator}"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)

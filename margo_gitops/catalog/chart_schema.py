"""Values against a chart's values.schema.json. The schema is a stranger's: it fetches nothing, and its work is counted.

A pattern is matched by RE2. Where patterns name properties, properties that no one names are not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from margo_gitops.documents.charts import Chart
from margo_gitops.documents.compose_yaml import Value
from margo_gitops.documents.helm_values import ValuePath
from margo_gitops.documents.json_text import read_json
from margo_gitops.errors import UnreadableDocument
from margo_gitops.wording import shortened

_MOST_STEPS = 100_000
_MOST_MISTAKES = 20
_BY_PATTERN = ("patternProperties", "additionalProperties", "unevaluatedProperties")


class _TooMuchError(Exception):
    """The schema needs more steps than are allowed."""


def schema_mistakes(chart: Chart, path: str, values: Value) -> Iterator[tuple[ValuePath, str]]:
    """Yield what of `values` does not follow a schema of a chart: where, and why; () for the schema itself.

    Raises:
        UnreadableDocument: it is not JSON.
    """
    # Imported where a chart has a schema: they take long to load.
    import jsonschema
    import referencing
    import referencing.exceptions

    schema = read_json(chart.files[path], chart.at(path).file).root.plain()
    try:
        cls: Any = jsonschema.validators.validator_for(
            cast("dict[str, Any]", schema), default=jsonschema.Draft7Validator
        )
        steps = [0]
        rules = {name: _counted(rule, steps) for name, rule in cls.VALIDATORS.items()}
        counted: Any = cast("Any", jsonschema.validators).extend(cls, {**rules, "pattern": _counted(_pattern, steps)})
        # With a registry of its own, jsonschema opens no URL and no file that a `$ref` names.
        validator = counted(_without_patterns(schema), registry=referencing.Registry())
        for count, error in enumerate(validator.iter_errors(values)):
            if count >= _MOST_MISTAKES:
                return
            yield tuple(error.absolute_path), f"does not follow the chart's schema: {shortened(error.message, 200)}"
    except UnreadableDocument:
        raise
    except (_TooMuchError, RecursionError):
        yield (), f"{path} needs too many steps to be checked"
    except Exception as error:  # noqa: BLE001  # a schema that is none: jsonschema raises whatever comes
        yield (), f"{path} is not a schema that can be used: {shortened(str(error), 200)}"


def _counted(rule: Callable[..., Any], steps: list[int]) -> Callable[..., Iterator[Any]]:
    def counting(*arguments: Any) -> Iterator[Any]:  # noqa: ANN401  # of jsonschema
        steps[0] += 1
        if steps[0] > _MOST_STEPS:
            raise _TooMuchError
        yield from rule(*arguments) or ()

    return counting


def _pattern(_validator: Any, pattern: Any, instance: Any, _schema: Any) -> Iterator[Any]:  # noqa: ANN401
    import jsonschema
    import re2

    if isinstance(instance, str) and isinstance(pattern, str):
        try:
            found = re2.search(pattern, instance)
        except re2.error:
            return  # what RE2 does not know, such as a look-ahead, is not judged
        if found is None:
            yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _without_patterns(schema: Any) -> Any:  # noqa: ANN401
    if isinstance(schema, list):
        return [_without_patterns(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    hidden = _BY_PATTERN if "patternProperties" in schema else ()
    return {key: _without_patterns(each) for key, each in schema.items() if key not in hidden}

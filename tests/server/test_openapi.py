"""The OpenAPI document, and the running server fuzzed with schemathesis against it.

`pytest --hypothesis-profile=long` makes a long run of the same test.
"""

from __future__ import annotations

import json
import re

import jsonschema
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server.serving import ServedFleet

from margo_gitops.server.contracts.current import ROUTES
from margo_gitops.server.contracts.openapi import openapi_document

DOCUMENT = openapi_document()
schema = schemathesis.openapi.from_dict(DOCUMENT)
# A body that is too large is refused by its size (413), before it is read.
schema.config.checks.negative_data_rejection.expected_statuses.append("413")


def operations() -> list[tuple[str, str]]:
    return [(path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item]


def test_every_resource_and_method_is_described_and_nothing_else() -> None:
    # docs/git-subset.md describes the resources of git, which OpenAPI has no words for.
    served = [(route.template, method) for route in ROUTES if route.audience != "git" for method in route.methods]
    assert sorted(operations()) == sorted(served)


def test_it_is_an_openapi_document_whose_schemas_are_valid() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for part in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(part)
    references = re.findall(r'"\$ref": "#/components/schemas/([^"]*)"', json.dumps(DOCUMENT))
    assert set(references) <= set(DOCUMENT["components"]["schemas"])


@schema.parametrize()
@settings(
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_running_server_does_what_it_says(case: schemathesis.Case, reading: ServedFleet) -> None:
    headers = {"Authorization": f"Bearer {reading.tokens['press-01']}"}
    # A schema says what one field may hold; that fields fit each other and the path, 422 says.
    case.call_and_validate(base_url=reading.url, headers=headers, excluded_checks=[positive_data_acceptance])

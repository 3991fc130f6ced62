"""The OpenAPI document, and the running server fuzzed with schemathesis against it.

`pytest --hypothesis-profile=long` makes a long run of the same test.
"""

from __future__ import annotations

import jsonschema
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from server.serving import ServedFleet

from margo_gitops.server.openapi import openapi_document
from margo_gitops.server.paths import METHODS, find_resource

DOCUMENT = openapi_document()
VALUES = {
    "deploymentId": "0f0e0d0c-0b0a-5908-8706-050403020100",
    "digest": f"sha256:{'0' * 64}",
    "deviceId": "press-01",
}
schema = schemathesis.openapi.from_dict(DOCUMENT)


def operations() -> list[tuple[str, str]]:
    return [(path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item]


def test_every_resource_and_method_is_described_and_nothing_else() -> None:
    described = {(find_resource(path.format(**VALUES).encode()).name, method) for path, method in operations()}
    # docs/git-subset.md describes the resources of git, which OpenAPI has no words for.
    served = {(name, method) for name, methods in METHODS.items() for method in methods if not name.startswith("git-")}
    assert described == served


def test_it_is_an_openapi_document_whose_schemas_are_valid() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for part in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(part)


@schema.parametrize()
@settings(
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_running_server_does_what_it_says(case: schemathesis.Case, reading: ServedFleet) -> None:
    headers = {"Authorization": f"Bearer {reading.tokens['press-01']}"}
    # A schema says what one field may hold; that fields fit each other and the path, 422 says.
    case.call_and_validate(base_url=reading.url, headers=headers, excluded_checks=[positive_data_acceptance])

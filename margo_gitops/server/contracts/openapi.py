"""The OpenAPI document of what the server serves; the declarations that check reports give its schemas (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import starmap
from typing import Final, cast

from margo_gitops import __version__
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.enrolment import EnrolmentAnswer, EnrolmentEnvelope
from margo_gitops.documents.freshness import FreshnessProof
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.receipt import ReceiptFile
from margo_gitops.documents.schemas import json_schema
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.server.contracts.current import ROUTES, Parts
from margo_gitops.server.problems import PROBLEM_MEDIA_TYPE, RETRYABLE
from margo_gitops.server.routing import PARAMETERS, Answer, Operation, Route
from margo_gitops.values import replace

OPENAPI_VERSION: Final = "3.1.0"

_JSON = "application/json"
_MEANINGS: Final[Mapping[int, str]] = {
    400: "The body cannot be read as JSON.",
    403: "The caller is not identified, not accepted, or asks for another client's device; one text for all.",
    404: "Not there for this client; it may be there for others.",
    406: "`Accept` lists other media types only.",
    409: "The server does not have the trust document that the device begins with.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body has a content coding.",
    422: "The document is wrong; `errors` says where.",
    429: "This client asks too often.",
    500: "A defect of the server.",
    503: "The server cannot answer now, or has no state for this client; keep what runs.",
}
_PROBLEM: Final[Json] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457, with Margo's members for retries.",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
        "retryable": {"type": "boolean"},
        "backoffStrategy": {"enum": ["exponential", "none"]},
        "retryAfterSeconds": {"type": "integer", "minimum": 0},
    },
    "required": ["type", "title", "status", "retryable", "backoffStrategy"],
    "additionalProperties": False,
}


def openapi_document() -> dict[str, Json]:
    """Return the OpenAPI document (version 3.1) of every resource of the current contract."""
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Margo's Workload Management API from a state repo",
            "version": __version__,
            "description": "What `margo-gitops serve` answers. docs/http.md says where and why it departs from Margo's "
            "own document, 1.0.0-rc.3.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "`listen.basePath` is in front of /api."}],
        "security": [{"bearer": []}, {"mutualTls": []}],
        # docs/git-subset.md describes the resources of git, which OpenAPI has no words for.
        "paths": {route.template: _item(route) for route in ROUTES if route.audience != "git"},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A device's token."},
                "mutualTls": {"type": "mutualTLS", "description": "A device's X.509-SVID."},
            },
        },
    }


def _item(route: Route[Parts]) -> dict[str, Json]:
    """Return a row of the table as a path item; HEAD answers as GET does, without a body."""
    item: dict[str, Json] = {}
    for method, operation in route.operations.items():
        item[method.lower()] = _operation(route, operation)
        if method == "GET":
            item["head"] = _operation(route, replace(operation, summary=f"{operation.summary} Headers only."))
    return item


def _operation(route: Route[Parts], operation: Operation[Parts]) -> Json:
    public = route.audience == "public"
    problems = () if public and not (operation.body or operation.refusals) else (*operation.refusals, *RETRYABLE)
    answers = sorted((*operation.answers, *map(_problem, problems)), key=lambda answer: answer.status)
    parameters = [*map(_in_path, route.parameters), *starmap(_in_header, operation.headers.items())]
    found: dict[str, Json] = {"summary": operation.summary}
    if public:
        found["security"] = []
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {"required": True, "content": {_JSON: {"schema": _reference(operation.body)}}}
    found["responses"] = {str(answer.status): _answer(answer) for answer in answers}
    return found


def _answer(answer: Answer) -> Json:
    found: dict[str, Json] = {"description": answer.summary}
    if answer.headers:
        found["headers"] = {name: _header(meaning) for name, meaning in answer.headers.items()}
    if answer.media_type:
        found["content"] = {answer.media_type: {"schema": _reference(answer.schema)} if answer.schema else {}}
    return found


def _problem(status: int) -> Answer:
    headers = {"Retry-After": "Seconds to stay away."} if status in RETRYABLE else {}
    return Answer(status, _MEANINGS[status], PROBLEM_MEDIA_TYPE, "Problem", headers)


def _schemas() -> dict[str, Json]:
    """Return the schemas of the documents; what they refer to is next to them, as in OpenAPI."""
    schemas: dict[str, Json] = {"Problem": _PROBLEM}
    for record in (
        StateManifest,
        DeviceCapabilities,
        DeploymentStatus,
        FreshnessProof,
        EnrolmentEnvelope,
        EnrolmentAnswer,
        ReceiptFile,
    ):
        schema = json_schema(record, schema_id="", title=record.__name__)
        parts = cast("dict[str, Json]", schema.pop("$defs", {}))
        for name, part in {record.__name__: schema, **parts}.items():
            if schemas.setdefault(name, _in_components(part)) != _in_components(part):
                raise ValueError(f"two schemas are named {name}")
    return schemas


def _in_components(schema: Json) -> Json:
    """Return a schema as a part of another document: without an id, its references leading to the components."""
    match schema:
        case {"$ref": str(reference)}:
            return {"$ref": reference.replace("#/$defs/", "#/components/schemas/")}
        case dict():
            return {key: _in_components(value) for key, value in schema.items() if key not in {"$schema", "$id"}}
        case list():
            return [_in_components(each) for each in schema]
    return schema


def _reference(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _header(meaning: str) -> dict[str, Json]:
    return {"description": meaning, "schema": {"type": "string"}}


def _in_header(name: str, meaning: str) -> Json:
    return {"name": name, "in": "header", "required": False, **_header(meaning)}


def _in_path(name: str) -> Json:
    parameter = PARAMETERS[name]
    schema: dict[str, Json] = {"type": "string", "pattern": parameter.pattern}
    if parameter.max_length is not None:
        schema["maxLength"] = parameter.max_length
    return {"name": name, "in": "path", "required": True, "description": parameter.meaning, "schema": schema}

"""The OpenAPI document of what the server serves; the declarations that check reports give its schemas (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from margo_gitops import __version__
from margo_gitops.digests import DIGEST_PATTERN
from margo_gitops.documents.capabilities import DeviceCapabilities
from margo_gitops.documents.deployment import UUID_PATTERN
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, FreshnessProof
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE, StateManifest
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import json_schema
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.server.problems import PROBLEM_MEDIA_TYPE, RETRYABLE
from margo_gitops.server.resources.desired_state import DEPLOYMENT_MEDIA_TYPE, POLL_INTERVAL_HEADER

OPENAPI_VERSION: Final = "3.1.0"

_JSON = "application/json"
_MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is no JSON that can be read safely.",
    403: "The caller is not identified, not accepted, or asks for another client's device; one text for all.",
    404: "Not there for this client, whoever else has it.",
    406: "`Accept` lists other media types only.",
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response; `schema` names one of the components."""

    status: int
    summary: str
    media_type: str = ""
    schema: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        answer: dict[str, Json] = {"description": self.summary}
        if self.headers:
            answer["headers"] = {name: _header(meaning) for name, meaning in self.headers.items()}
        if self.media_type:
            answer["content"] = {self.media_type: {"schema": _reference(self.schema)} if self.schema else {}}
        return answer


@dataclass(frozen=True, slots=True)
class _Operation:
    """One method of a resource: the answers that went well, and the statuses of problems."""

    summary: str
    answers: tuple[_Answer, ...]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Json, ...] = ()
    body: str = ""
    public: bool = False

    def json(self) -> Json:
        problems = () if self.public else (*self.refusals, *RETRYABLE)
        answers = sorted((*self.answers, *map(_problem, problems)), key=lambda answer: answer.status)
        operation: dict[str, Json] = {"summary": self.summary}
        if self.public:
            operation["security"] = []
        if self.parameters:
            operation["parameters"] = list(self.parameters)
        if self.body:
            operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _reference(self.body)}}}
        operation["responses"] = {str(answer.status): answer.json() for answer in answers}
        return operation


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
        "servers": [{"url": "/", "description": "`listen.basePath` stands in front of /api."}],
        "security": [{"bearer": []}, {"mutualTls": []}],
        "paths": {path: {name: each.json() for name, each in methods.items()} for path, methods in _paths().items()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A device's token."},
                "mutualTls": {"type": "mutualTLS", "description": "A device's X.509-SVID."},
            },
        },
    }


def _paths() -> dict[str, dict[str, _Operation]]:
    deployment_id = _in_path("deploymentId", "The deployment.", UUID_PATTERN)
    digest = _in_path("digest", "Digest of the bytes.", DIGEST_PATTERN)
    device = _in_path("deviceId", "The device.", DEVICE_ID_PATTERN, DEVICE_ID_MAX_LENGTH)
    wait = _in_header("Prefer", "`wait=N` (RFC 7240): answer at the next change, at the latest after N seconds.")
    hints = {"Preference-Applied": "The wait that was applied.", POLL_INTERVAL_HEADER: "Seconds: poll no more often."}
    kept = (_Answer(200, "Kept, in place of what was there."), _Answer(201, "Kept; the first one."))
    bad_body = (400, 403, 404, 408, 413, 415, 422)
    manifest = _Answer(200, "All that the client shall run.", MANIFEST_MEDIA_TYPE, "StateManifest", hints)
    document = _Answer(200, "One deployment document, as it was rendered.", DEPLOYMENT_MEDIA_TYPE)
    bundle = _Answer(200, "All deployment documents as one archive.", BUNDLE_MEDIA_TYPE)
    proof = _Answer(200, "Proof that the manifest is the newest.", FRESHNESS_MEDIA_TYPE, "FreshnessProof")
    alive = _Answer(200, "The process answers.", "text/plain")
    ready = (_Answer(200, "The state repo can be read.", "text/plain"), _Answer(503, "It cannot.", "text/plain"))
    trust = (_Answer(404, "This server has none.", PROBLEM_MEDIA_TYPE, "Problem"),)
    put = _Operation("Say what a device is and offers.", kept, bad_body, (device,), "DeviceCapabilities")
    forget = _Operation("Forget a device and its children.", (_Answer(204, "Forgotten."),), (403, 404), (device,))
    report = _Operation("Say what became of a deployment.", kept, bad_body, (deployment_id,), "DeploymentStatus")
    return {
        "/api/v1/deployments": _read(manifest, (403, 406), (wait,)),
        "/api/v1/deployments/{deploymentId}/{digest}": _read(document, (403, 404, 406), (deployment_id, digest)),
        "/api/v1/bundles/{digest}": _read(bundle, (403, 404, 406), (digest,)),
        "/api/v1/freshness": _read(proof, (403, 404, 406)),
        "/api/v1/deployments/{deploymentId}/status": {"post": report},
        "/api/v1/capabilities/{deviceId}": {"put": put, "delete": forget},
        "/healthz": _with_head(_Operation("Ask whether the process lives.", (alive,), public=True)),
        "/readyz": _with_head(_Operation("Ask whether it can serve.", ready, public=True)),
        "/.well-known/margo": _read(_Answer(200, "The trust domain and its bundle's place.", _JSON), public=trust),
        "/.well-known/margo/trust-bundle": _read(_Answer(200, "The trust bundle (SPIFFE).", _JSON), public=trust),
    }


def _read(
    found: _Answer,
    refusals: tuple[int, ...] = (),
    parameters: tuple[Json, ...] = (),
    public: tuple[_Answer, ...] = (),
) -> dict[str, _Operation]:
    """Return what is read, also on condition (RFC 9110, 13.1.2)."""
    held = _in_header("If-None-Match", "Entity tags of what the client holds.")
    found = replace(found, headers={"ETag": "The digest, quoted.", "Cache-Control": "For how long.", **found.headers})
    current = _Answer(304, "What the client holds is current.", headers=found.headers)
    answers = (found, current, *public)
    return _with_head(_Operation(found.summary, answers, refusals, (*parameters, held), public=bool(public)))


def _with_head(get: _Operation) -> dict[str, _Operation]:
    """Return an operation and HEAD, which answers alike, without a body."""
    return {"get": get, "head": replace(get, summary=f"{get.summary} Headers only.")}


def _problem(status: int) -> _Answer:
    headers = {"Retry-After": "Seconds to stay away."} if status in RETRYABLE else {}
    return _Answer(status, _MEANINGS[status], PROBLEM_MEDIA_TYPE, "Problem", headers)


def _schemas() -> dict[str, Json]:
    """Return the schemas of the documents; what they refer to stands beside them, as OpenAPI has it."""
    schemas: dict[str, Json] = {"Problem": _PROBLEM}
    for record in (StateManifest, DeviceCapabilities, DeploymentStatus, FreshnessProof):
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


def _in_path(name: str, meaning: str, pattern: str, max_length: int | None = None) -> Json:
    schema: dict[str, Json] = {"type": "string", "pattern": pattern}
    if max_length is not None:
        schema["maxLength"] = max_length
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}

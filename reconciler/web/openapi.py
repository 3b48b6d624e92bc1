"""The API's operations: one table, from which routes are made and the OpenAPI document is generated.

Schemas come from the types that the handlers themselves return and read, through pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import TypedDict

from reconciler import __version__
from reconciler.shapes import CommitsView, ConfigView, DeploysView, DeployView, SourcesView, TargetsView, TargetView
from reconciler.spec import NAME_PATTERN
from reconciler.wishes import Cancel, Reconcile, Resume, Suspend

MAX_PAGE = 1_000
DEFAULT_DEPLOYS = 100
DEPLOY_PATTERN = NAME_PATTERN[:-1] + r"\.[0-9]{1,18}$"


class TargetsPage(TargetsView):
    """Targets by name; `next` is the value of `after` for the next page, null on the last one."""

    next: str | None


class DeploysPage(DeploysView):
    """Deploys, the newest first; `next` is the value of `before` for the next page, null on the last one."""

    next: int | None


class Done(TypedDict):
    """A wish was written down; the daemon acts on it at once."""

    done: str


class Taken(TypedDict):
    """What became of a delivery."""

    result: str


class ProblemView(TypedDict):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "The most that one page holds.")
_AFTER = _query("after", {"type": "string", "maxLength": 63}, "Targets whose names come after this one.")
_BEFORE = _query("before", {"type": "integer", "minimum": 1, "maximum": 2**53}, "Deploys with smaller fencing tokens.")
_PATH: Mapping[str, dict[str, Any]] = {
    "name": {"type": "string", "pattern": NAME_PATTERN},
    "id": {"type": "string", "pattern": DEPLOY_PATTERN},
    "provider": {"type": "string", "pattern": "^[a-z-]{1,32}$"},
    "source": {"type": "string", "minLength": 1},
}
_ERRORS = {
    400: "The query or the body cannot be read.",
    401: "The token is missing or wrong.",
    403: "The settings name no api_token_file, so nothing can be changed over HTTP.",
    404: "There is nothing of this name.",
    408: "The body did not arrive in time.",
    409: "Nothing is running that could be cancelled.",
    413: "The body is too large.",
    415: "Another content type is expected.",
    421: "The Host header names another host.",
    422: "The body says something that is not allowed.",
    503: "Not now; the text says why.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: its route, and what goes in and comes out."""

    method: str
    path: str
    handler: str
    summary: str
    returns: Any = str  # a type of the API, or str for text
    media: str = "application/json"
    status: int = 200
    errors: tuple[int, ...] = ()
    query: tuple[dict[str, Any], ...] = ()
    body: type[BaseModel] | None = None
    tag: str = "read"
    also: Mapping[str, str] = field(default_factory=dict)  # further media types and what they mean


def _get(path: str, handler: str, summary: str, returns: Any, **more: Any) -> Operation:
    return Operation(method="GET", path=path, handler=handler, summary=summary, returns=returns, **more)


def _wish(verb: str, summary: str, body: type[BaseModel], *errors: int) -> Operation:
    return Operation(
        method="POST",
        path=f"/api/v1/targets/{{name}}/{verb}",
        handler=verb,
        summary=summary,
        returns=Done,
        status=202,
        body=body,
        tag="wish",
        errors=(400, 401, 403, 404, 408, 413, 415, 422, *errors),
    )


_TEXT = {"media": "text/plain"}
OPERATIONS: tuple[Operation, ...] = (
    _get("/api/v1/targets", "targets", "All targets", TargetsPage, query=(_LIMIT, _AFTER), errors=(400,)),
    _get("/api/v1/targets/{name}", "target", "One target", TargetView, errors=(404,)),
    _get(
        "/api/v1/targets/{name}/deploys",
        "deploys",
        "A target's deploys, the newest first",
        DeploysPage,
        query=(_LIMIT, _BEFORE),
        errors=(400, 404),
    ),
    _get(
        "/api/v1/targets/{name}/commits",
        "commits",
        "The commits between what is deployed and what is desired",
        CommitsView,
        errors=(404,),
    ),
    _get("/api/v1/deploys/{id}", "deploy", "One deploy", DeployView, errors=(404,)),
    _get(
        "/api/v1/deploys/{id}/log",
        "log",
        "What a deploy printed",
        str,
        **_TEXT,
        errors=(404,),
        also={
            "text/event-stream": "Follows until the deploy ends. Ids are offsets; Last-Event-ID goes on from there; "
            "the last event is `end`, with the deploy."
        },
    ),
    _get("/api/v1/sources", "sources", "All Sources, and how their polls go", SourcesView),
    _get("/api/v1/config", "config", "The config commit in force, and what is wrong with the newest one", ConfigView),
    _get("/healthz", "healthz", "Whether the loop turns", str, **_TEXT, errors=(503,), tag="health"),
    _get("/readyz", "readyz", "Whether configuration was loaded and polled", str, **_TEXT, errors=(503,), tag="health"),
    _get("/metrics", "metrics", "Metrics for Prometheus", str, **_TEXT, tag="health"),
    _wish("reconcile", "Poll now, and deploy once more", Reconcile),
    _wish("suspend", "Start no deploy for a while", Suspend),
    _wish("resume", "End a suspension", Resume),
    _wish("cancel", "End the running deploy", Cancel, 409),
)
_HOOK_ERRORS = (400, 401, 404, 408, 413)
HOOKS: tuple[Operation, ...] = tuple(
    Operation(
        method="POST",
        path=path,
        handler=handler,
        summary=summary,
        returns=Taken,
        status=202,
        tag="webhook",
        errors=_HOOK_ERRORS,
    )
    for path, handler, summary in (
        ("/webhook/{provider}", "provider", "A delivery of a forge; it only ever causes an early poll"),
        ("/webhook/generic/{source}", "generic", "A delivery for one Source, named by its URL or the end of its path"),
    )
)


def document(*, with_hooks: bool) -> dict[str, Any]:
    """Return the OpenAPI document of a listener."""
    operations = OPERATIONS + (HOOKS if with_hooks else ())
    types = {operation.returns for operation in operations if operation.returns is not str} | {ProblemView}
    bodies = {operation.body for operation in operations if operation.body is not None}
    wanted: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = [
        *((kind, "serialization", TypeAdapter(kind)) for kind in sorted(types, key=lambda kind: kind.__name__)),
        *((kind, "validation", TypeAdapter(kind)) for kind in sorted(bodies, key=lambda kind: kind.__name__)),
    ]
    refs, definitions = TypeAdapter.json_schemas(wanted, ref_template="#/components/schemas/{model}")
    schema_of = {kind: schema for (kind, _), schema in refs.items()}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "reconciler",
            "version": __version__,
            "summary": "Deploys what a git repository says, and nothing else",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    names = [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH[name]} for name in names
    ]
    schema = {"type": "string"} if operation.returns is str else schema_of[operation.returns]
    content: dict[str, Any] = {operation.media: {"schema": schema}}
    for media, text in operation.also.items():
        content[media] = {"schema": {"type": "string", "description": text}}
    responses: dict[str, Any] = {str(operation.status): {"description": operation.summary, "content": content}}
    if operation.tag == "webhook":
        responses["200"] = {"description": "A ping, or nothing was pushed", "content": content}
    for code in (*operation.errors, 421):
        error = {"application/problem+json": {"schema": schema_of[ProblemView]}}
        text_error = {"text/plain": {"schema": {"type": "string"}}}
        responses[str(code)] = {"description": _ERRORS[code], "content": text_error if code == 503 else error}  # noqa: PLR2004
    made: dict[str, Any] = {
        "operationId": operation.handler,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*parameters, *operation.query],
        "responses": responses,
    }
    if operation.body is not None:
        body_schema = schema_of[operation.body]
        made["requestBody"] = {"required": False, "content": {"application/json": {"schema": body_schema}}}
        made["security"] = [{"token": []}]
    return made

"""The OpenAPI document: which statuses and bodies each route may answer with, errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

ERRORS = {
    "400": "A field that is missing, wrong or not supported; `param` names it.",
    "401": "No API key, or a wrong one.",
    "404": "There is nothing of that name here.",
    "413": "The body is larger than the server allows.",
    "429": "Too much at once: a full queue, a rate or a number in flight. `Retry-After` says when to come again.",
    "500": "A fault of the server.",
    "503": "The engine is being restarted, or the server shuts down. `Retry-After` says when to come again.",
    "504": "It took longer than the server allows, and was cancelled.",
}
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_STATUS_SCHEMA: dict[str, Any] = {"type": "object", "required": ["status", "reason"]}
_EVENTS, _LINES = "text/event-stream", "application/jsonl"
# Routes whose good answer is something else than JSON alone.
_KINDS = {
    "/v1/chat/completions": ("application/json", _EVENTS),
    "/v1/completions": ("application/json", _EVENTS),
    "/v1/responses": ("application/json", _EVENTS),
    "/v1/programs/{job_id}/events": (_EVENTS,),
    "/v1/batches/{batch}/results": (_LINES,),
    "/metrics": ("text/plain",),
}
_HEALTH = ("/health", "/ready")
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {name: {"type": "string"} for name in ("data", "event", "id")},
}
_SCHEMAS = {"application/json": {"type": "object"}, _EVENTS: _EVENT_SCHEMA}
# What a good answer's id may be used for: the parameter that takes it, by the route that gives it.
_GIVES = {
    "/v1/responses": ("200", "response_id"),
    "/v1/programs": ("202", "job_id"),
    "/v1/batches": ("202", "batch"),
}


def add_document(app: FastAPI, *, needs_key: bool) -> None:
    """Have `/openapi.json` say what the routes do.

    Args:
        app: With all routes.
        needs_key: Whether clients must show an API key.
    """

    def make() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, needs_key=needs_key)
        return app.openapi_schema

    app.openapi = make  # type: ignore[method-assign]


def _describe(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422, which this server never answers
        schemas.pop(name, None)
    schemas["Error"] = _ERROR_SCHEMA
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _describe_operation(path, operation)
    batch = {"schema": {"type": "string"}, "example": '{"question": "What is 17*6+4?"}'}
    content = {_LINES: {"schema": {"type": "string"}}, "text/plain": batch}
    document["paths"]["/v1/batches"]["post"]["requestBody"] = {"required": True, "content": content}
    for path, (status, parameter) in _GIVES.items():
        _link(document["paths"], path, status, parameter)
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _describe_operation(path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    for kinds in [_KINDS[path]] if path in _KINDS else []:
        for status in (name for name in answers if name.startswith("2")):
            answers[status]["content"] = {
                kind: {"schema": _SCHEMAS.get(kind, {"type": "string"})} for kind in kinds
            }
    for status, words in ERRORS.items():
        schema = {"$ref": "#/components/schemas/Error"}
        if path in _HEALTH and status == "503":
            schema = _STATUS_SCHEMA
        answers[status] = {"description": words, "content": {"application/json": {"schema": schema}}}


def _link(paths: dict[str, Any], path: str, status: str, parameter: str) -> None:
    """Say which routes take the id that a route gives."""
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {parameter: "$response.body#/id"},
        }
        for taking, operations in paths.items()
        for method, operation in operations.items()
        if taking.startswith(f"{path}/{{{parameter}}}") and method != "delete"
    }
    paths[path]["post"]["responses"][status]["links"] = links

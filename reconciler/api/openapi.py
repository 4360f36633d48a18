"""`GET /openapi.json`: every route of the router, with the description of its handler."""

import re
from typing import Any

from aiohttp import web

from reconciler import __version__
from reconciler.api.describe import OPERATIONS, Operation, describe, ref
from reconciler.api.errors import reply
from reconciler.core.schema import NAMES, schema

routes = web.RouteTableDef()


@routes.get("/openapi.json")
@describe({200: {"type": "object"}})
async def openapi(request: web.Request) -> web.Response:
    """This document."""
    return reply(document(request.app.router))


def document(router: web.UrlDispatcher) -> dict[str, Any]:
    """OpenAPI 3.1 document of the routes, with the published schemas."""
    paths: dict[str, dict[str, Any]] = {}
    for route in router.routes():
        if route.method != "HEAD" and route.resource is not None:
            operation = _operation(OPERATIONS[route.handler], route.resource.canonical)
            paths.setdefault(route.resource.canonical, {})[route.method.lower()] = operation
    schemas = {name: _localized(schema(name)) for name in NAMES}
    return {
        "openapi": "3.1.0",
        "info": {"title": "reconciler", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [
        {"name": q.name, "in": "query", "description": q.description, "schema": q.schema}
        for q in operation.query
    ]
    answers = {
        str(status): _content("The response.", operation.content_type, answer)
        for status, answer in operation.answers.items()
    }
    error = _content("An error.", "application/json", operation.error or ref("error"))
    entry: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": answers | {"default": error},
    }
    if operation.body is not None:
        content = {"application/json": {"schema": _localized(ref(operation.body))}}
        entry["requestBody"] = {"required": True, "content": content}
    return entry


def _content(description: str, type_: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {type_: {"schema": _localized(answer)}}}


def _localized(value: Any) -> Any:
    """Adapt a schema to the document: its references point to the document's components."""
    if isinstance(value, list):
        return [_localized(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {k: _localized(v) for k, v in value.items() if k not in ("$id", "$schema")}
    if isinstance(kept.get("$ref"), str):
        file, _, rest = kept["$ref"].partition(".schema.json")
        kept["$ref"] = f"#/components/schemas/{file}{rest.removeprefix('#')}"
    return kept

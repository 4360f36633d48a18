"""Serve the recipes of `launch --print`, which set up other programs for an instance."""

import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe
from reconciler.api.errors import ApiError, of_problem, reply
from reconciler.core.errors import Problem, Reason
from reconciler.recipes.editors import EDITORS
from reconciler.recipes.script import script
from reconciler.recipes.tools import TOKEN, TOOLS, Recipe, Target

routes = web.RouteTableDef()

TOKEN_FILE = "TOKEN_FILE"  # noqa: S105  stands for the path of the reader's file
"""Placeholder for a path that only the reader knows."""

_TOKEN_HEADERS = ("Authorization", "x-api-key")

RECIPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "title", "hint", "text"],
    "properties": {
        "name": {"type": "string", "description": "As `reconciler launch` calls it."},
        "title": {"type": "string", "description": "As its makers write it."},
        "hint": {"type": "string", "description": "How it is installed, or where the text goes."},
        "text": {"type": "string", "description": "Commands for a shell, or settings for a file."},
    },
}
RECIPES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["recipes"],
    "properties": {"recipes": {"type": "array", "items": RECIPE}},
}


@routes.get("/api/v1/recipes")
@describe({200: RECIPES}, query=(Query("name", "For this record.", {"type": "string"}),))
async def recipes(request: web.Request) -> web.Response:
    """Recipes that set up tools and editors for a record, without the token."""
    name = request.query.get("name")
    if not name:
        message = "the query parameter `name` is missing; it names a record"
        code = "missing_required_parameter"
        raise ApiError(400, "invalid_request", message, code, "name")
    view = request.app[CONTROLLER].answer(name)
    if view is None:
        raise of_problem(Problem(Reason.UNKNOWN_INSTANCE, f"there is no record '{name}'"))
    config = view.status.config
    # Never repeat the token itself, not even to the client that sent it.
    token = TOKEN if any(one in request.headers for one in _TOKEN_HEADERS) else ""
    if "Host" not in request.headers:  # `request.host` would query the network for a name
        message = "the request has no Host header, which the recipes contain"
        raise ApiError(400, "invalid_request", message, "invalid_http")
    url = f"{request.scheme}://{request.host}"
    target = Target(url, name, token, config.context_length if config is not None else None)
    return reply({"recipes": [_curl(target), *_tools(target), *_editors(target)]})


def _curl(target: Target) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"model": target.model, "messages": messages})
    headers = ["-H", "Content-Type: application/json"]
    if target.token:
        headers += ["-H", f"Authorization: Bearer {TOKEN}"]
    command = ("curl", f"{target.openai}/chat/completions", *headers, "-d", body)
    return {
        "name": "curl",
        "title": "Any client of OpenAI's API",
        "hint": f"Its base address is {target.openai}, its model {target.model}.",
        "text": script(Recipe(command), (), TOKEN_FILE),
    }


def _tools(target: Target) -> list[dict[str, Any]]:
    return [
        {
            "name": tool.name,
            "title": tool.title,
            "hint": f"Install it with: {tool.install}",
            "text": script(tool.recipe(target), (), TOKEN_FILE),
        }
        for tool in TOOLS.values()
    ]


def _editors(target: Target) -> list[dict[str, Any]]:
    target = replace(target, token="TOKEN" if target.token else "")
    return [
        {
            "name": editor.name,
            "title": editor.title,
            "hint": f"Add it to {editor.place}",
            "text": editor.settings(target),
        }
        for editor in EDITORS.values()
    ]

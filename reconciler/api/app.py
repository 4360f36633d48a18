"""The application: routes, guard, and the one form of errors."""

from aiohttp import web

from reconciler.api import (
    downloads,
    embeddings,
    events,
    forward,
    health,
    lm_studio,
    logs,
    messages,
    metrics,
    models,
    node,
    ollama,
    ollama_embed,
    ollama_models,
    ollama_pull,
    openai,
    openapi,
    plans,
    records,
    responses,
    sources,
)
from reconciler.api.context import CONTROLLER
from reconciler.api.errors import errors
from reconciler.api.guard import guard
from reconciler.api.stopping import refuse_while_stopping
from reconciler.controller import Controller


def build(controller: Controller, host: str, token: str | None) -> web.Application:
    """The application that serves `controller` on `host`."""
    app = web.Application(
        middlewares=[errors, guard(host, token), refuse_while_stopping],
        client_max_size=forward.MAX_BYTES,
    )
    app[CONTROLLER] = controller
    groups = (
        models,
        downloads,
        plans,
        records,
        events,
        logs,
        sources,
        openai,
        responses,
        lm_studio,
        ollama,
        ollama_embed,
        ollama_models,
        ollama_pull,
        embeddings,
        messages,
        node,
        metrics,
        health,
        openapi,
    )
    for group in groups:
        app.add_routes(group.routes)
    return app

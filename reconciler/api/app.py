"""The web application: routes, access control and error responses."""

from collections.abc import Iterable

from aiohttp import web

from reconciler.api import (
    cors,
    downloads,
    embeddings,
    events,
    forward,
    health,
    hub,
    instances,
    lm_studio,
    logs,
    memory,
    messages,
    metrics,
    model_details,
    models,
    node,
    openai,
    openapi,
    page,
    plans,
    recipes,
    records,
    responses,
    sources,
)
from reconciler.api.context import CONTROLLER
from reconciler.api.errors import errors
from reconciler.api.guard import guard
from reconciler.api.ollama import chats as ollama
from reconciler.api.ollama import embed as ollama_embed
from reconciler.api.ollama import models as ollama_models
from reconciler.api.ollama import pull as ollama_pull
from reconciler.api.origins import Access
from reconciler.api.query import refuse_unknown_query
from reconciler.api.stopping import refuse_while_stopping
from reconciler.controller import Controller


def build(
    controller: Controller,
    host: str,
    token: str | None,
    *,
    origins: Iterable[str] = (),
    hosts: Iterable[str] = (),
    serves_page: bool = True,
) -> web.Application:
    """The application that serves `controller` on `host`; see `Access`.

    `serves_page`: True if browsers get the live page.
    """
    access = Access(host, token, frozenset(origins), tuple(hosts))
    app = web.Application(
        middlewares=[errors, guard(access), refuse_while_stopping, refuse_unknown_query],
        client_max_size=forward.MAX_BYTES,
    )
    app.on_response_prepare.append(cors.response_headers(access))
    app[CONTROLLER] = controller
    app[page.SERVES_PAGE] = serves_page
    groups = (
        models,
        downloads,
        plans,
        records,
        instances,
        model_details,
        hub,
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
        memory,
        metrics,
        health,
        openapi,
        page,
        recipes,
    )
    for group in groups:
        app.add_routes(group.routes)
    return app

"""The application: routes, guard, and the one form of errors."""

from aiohttp import web

from reconciler.api import events, health, models, openai, openapi, records, sources, unsupported
from reconciler.api.context import CONTROLLER
from reconciler.api.errors import errors
from reconciler.api.guard import guard
from reconciler.controller import Controller


def build(controller: Controller, host: str, token: str | None) -> web.Application:
    """The application that serves `controller` on `host`."""
    app = web.Application(
        middlewares=[errors, guard(host, token)], client_max_size=openai.MAX_BYTES
    )
    app[CONTROLLER] = controller
    for group in (models, records, events, sources, openai, unsupported, health, openapi):
        app.add_routes(group.routes)
    return app

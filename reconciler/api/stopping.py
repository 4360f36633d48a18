"""A daemon that stops answers what it is asked to look at, and begins nothing."""

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.errors import Handler, of_problem
from reconciler.controller.controller import STOPPING

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})


@web.middleware
async def refuse_while_stopping(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raises `ApiError` 503 `stopping`, which says when to try again."""
    if request.method not in LOOKS and request.app[CONTROLLER].stopping:
        raise of_problem(STOPPING)
    return await handler(request)

"""Rejection of changes while the daemon stops; it still answers reads."""

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.errors import Handler, of_problem
from reconciler.controller.controller import STOPPING

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})


@web.middleware
async def refuse_while_stopping(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reject changes. Raises `ApiError` 503 `stopping`, whose response has `Retry-After`."""
    if request.method not in LOOKS and request.app[CONTROLLER].stopping:
        raise of_problem(STOPPING)
    return await handler(request)

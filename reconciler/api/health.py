"""Health of the daemon itself; records report theirs in conditions."""

from aiohttp import web

from reconciler import __version__
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import reply

routes = web.RouteTableDef()


@routes.get("/api/v1/ready/{name:.+}")
@describe({200: ref("health"), 503: ref("health")})
async def ready(request: web.Request) -> web.Response:
    """200 while an instance, or one of a model, accepts requests; for health checks of proxies."""
    name = request.match_info["name"]
    if request.app[CONTROLLER].can_answer(name):
        return reply({"status": "ok", "version": __version__})
    message = f"no instance of {name} accepts requests now"
    return reply({"status": "degraded", "message": message, "version": __version__}, status=503)


@routes.get("/health")
@describe({200: ref("health"), 503: ref("health")})
async def health(request: web.Request) -> web.Response:
    """200 while models can be loaded; 503 with the cause while none can be."""
    problem = request.app[CONTROLLER].problem
    if problem is not None:
        body = {"status": "degraded", "message": problem.message, "version": __version__}
        return reply(body, status=503)
    return reply({"status": "ok", "version": __version__})

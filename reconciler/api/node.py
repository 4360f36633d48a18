"""The machine on which the daemon runs."""

from aiohttp import web

from reconciler import __version__
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import reply

routes = web.RouteTableDef()


@routes.get("/api/v1/node")
@describe({200: ref("node")})
async def node(request: web.Request) -> web.Response:
    """Labels of this machine, memory of its models, and wired memory."""
    controller = request.app[CONTROLLER]
    held = controller.memory()
    memory = None if held is None else {"used_bytes": held.used, "budget_bytes": held.budget}
    machine = controller.machine
    return reply(
        {
            "version": __version__,
            "labels": controller.labels,
            "memory": memory,
            "wired": machine.wired if machine is not None else None,
        }
    )

"""Current memory and requests of loaded instances."""

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many
from reconciler.api.errors import reply
from reconciler.controller import Controller
from reconciler.core.protocol import Activity, Usage
from reconciler.core.records import Instance

routes = web.RouteTableDef()


@routes.get("/api/v1/instances")
@describe({200: many("instances", "instance")})
async def instances(request: web.Request) -> web.Response:
    """List loaded instances: memory, KV cache, requests, and time until idle."""
    controller = request.app[CONTROLLER]
    activity, tokens = await asyncio.gather(controller.activity(), controller.tokens())
    rows = [
        _row(i, controller, activity.get(i.name), tokens.get(i.name, Usage()))
        for i in controller.instances()
    ]
    return reply({"instances": rows})


def _row(
    instance: Instance, controller: Controller, activity: Activity | None, tokens: Usage
) -> dict[str, Any]:
    kv_cache = {"kv_bytes": None, "kept_bytes": None} if activity is None else asdict(activity)
    return {
        "name": instance.name,
        "checkpoint": instance.checkpoint,
        "shared_bytes": instance.shared_bytes,
        "reserved_bytes": instance.session_bytes,
        **kv_cache,
        "requests": controller.in_flight(instance.name),
        "prompt_tokens": tokens.prompt_tokens,
        "cached_tokens": tokens.cached_tokens,
        "completion_tokens": tokens.completion_tokens,
        "first_tokens": sum(tokens.first_tokens.counts),
        "first_token_seconds": tokens.first_tokens.seconds,
        "seconds_until_idle": controller.seconds_left(instance.name),
    }

"""Memory and requests at this moment, for displays that are refreshed every few seconds."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import reply
from reconciler.core.memory import Ledger
from reconciler.core.protocol import Usage

routes = web.RouteTableDef()


@routes.get("/api/v1/activity")
@describe({200: ref("activity")})
async def activity(request: web.Request) -> web.Response:
    """Memory by holder; requests in flight and tokens by instance."""
    controller = request.app[CONTROLLER]
    tokens = await controller.tokens()
    in_flight = controller.requests_in_flight()
    ledger = controller.memory()
    names = sorted({*tokens, *in_flight, *(i.name for i in controller.instances())})
    return reply(
        {
            "memory": None if ledger is None else _memory(ledger, controller.leased_memory()),
            "instances": [
                _instance(name, tokens.get(name, Usage()), in_flight.get(name, 0)) for name in names
            ],
        }
    )


def _memory(ledger: Ledger, leased: Mapping[str, int]) -> dict[str, Any]:
    checkpoints = [_checkpoint(ledger, path, leased.get(path, 0)) for path in ledger.shared]
    used = sum(_total(checkpoint) for checkpoint in checkpoints)
    return {
        "budget_bytes": ledger.budget,
        "free_bytes": max(0, ledger.budget - used),
        "checkpoints": checkpoints,
    }


def _checkpoint(ledger: Ledger, path: str, leased: int) -> dict[str, Any]:
    own = {name: size for name, (checkpoint, size) in ledger.own.items() if checkpoint == path}
    admitted = ledger.shared[path] + sum(own.values()) + leased
    return {
        "checkpoint": path,
        "weights_bytes": ledger.shared[path],
        "leased_bytes": leased,
        "excess_bytes": max(0, ledger.live.get(path, 0) - admitted),
        "instances": [{"name": name, "kv_cache_bytes": size} for name, size in own.items()],
    }


def _total(checkpoint: dict[str, Any]) -> int:
    own: int = sum(instance["kv_cache_bytes"] for instance in checkpoint["instances"])
    held: int = sum(checkpoint[f"{kind}_bytes"] for kind in ("weights", "leased", "excess"))
    return held + own


def _instance(name: str, usage: Usage, in_flight: int) -> dict[str, Any]:
    return {
        "name": name,
        "requests_in_flight": in_flight,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "first_tokens": sum(usage.first_tokens.counts),
        "first_token_seconds": usage.first_tokens.seconds,
    }

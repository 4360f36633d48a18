"""Report current memory use by holder."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import reply
from reconciler.core.memory import Ledger

routes = web.RouteTableDef()


@routes.get("/api/v1/memory")
@describe({200: ref("memory")})
async def memory(request: web.Request) -> web.Response:
    """The budget, and who holds which part of it."""
    controller = request.app[CONTROLLER]
    ledger = controller.memory()
    if ledger is None:
        return reply({"budget_bytes": None, "free_bytes": None, "checkpoints": []})
    leased = controller.leased_memory()
    checkpoints = [_checkpoint(ledger, path, leased.get(path, 0)) for path in ledger.shared]
    used = sum(_total(checkpoint) for checkpoint in checkpoints)
    return reply(
        {
            "budget_bytes": ledger.budget,
            "free_bytes": max(0, ledger.budget - used),
            "checkpoints": checkpoints,
        }
    )


def _checkpoint(ledger: Ledger, path: str, leased: int) -> dict[str, Any]:
    own = {name: size for name, (checkpoint, size) in ledger.own.items() if checkpoint == path}
    admitted = ledger.shared[path] + sum(own.values()) + leased
    return {
        "checkpoint": path,
        "shared_bytes": ledger.shared[path],
        "leased_bytes": leased,
        "excess_bytes": max(0, ledger.live.get(path, 0) - admitted),
        "instances": [{"name": name, "reserved_bytes": size} for name, size in own.items()],
    }


def _total(checkpoint: Mapping[str, Any]) -> int:
    own: int = sum(instance["reserved_bytes"] for instance in checkpoint["instances"])
    held: int = sum(checkpoint[f"{kind}_bytes"] for kind in ("shared", "leased", "excess"))
    return own + held

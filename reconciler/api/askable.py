"""The models that a request can name, as OpenAI's clients list them.

Instances that are loaded, records whose instance is on its way or is loaded again at a request,
and, with just-in-time loading, the models on disk.
"""

from typing import Any

from reconciler.api.pieces import each
from reconciler.controller import Availability, Controller, RecordView
from reconciler.core.errors import Problem


async def askable(controller: Controller) -> list[dict[str, Any]]:
    """All of them, records first. Raises `LoadError` if nobody can look at the models on disk."""
    views = await each(controller.answers(), lambda view: _record(controller, view))
    found = [row for row in views if row is not None]
    if controller.jit:
        names = {row["id"] for row in found}
        for entry in await controller.models():
            if entry.key in names or isinstance(entry.facts, Problem):
                continue
            availability = controller.availability(entry.key)
            if availability is not None:
                found.append(_row(entry.key, availability))
    return found


async def askable_one(controller: Controller, name: str) -> dict[str, Any] | None:
    """The one that a request for `name` means; None: there is none. Raises as `askable`."""
    availability = controller.availability(name)
    view = controller.answer(name)
    if availability is Availability.NOT_LOADED:
        lowered = name.lower()
        keys = [e.key for e in await controller.models() if not isinstance(e.facts, Problem)]
        if all(key.lower() != lowered for key in keys):
            return None
    if availability is None:
        return None
    return _row(name, availability) if view is None else _record(controller, view)


def _record(controller: Controller, view: RecordView) -> dict[str, Any] | None:
    availability = controller.availability(view.record.name)
    if availability is None:
        return None
    return _row(view.record.name, availability, int(view.record.created_at.timestamp()))


def _row(name: str, availability: Availability, created: int = 0) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "reconciler",
        "state": availability,
    }

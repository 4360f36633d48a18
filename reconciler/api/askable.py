"""Models that a request can name, in the format of OpenAI's clients.

These are loaded instances, and records whose instance is loading or is reloaded by a request, each
also under its aliases. With just-in-time loading, the models on disk are included.
"""

from typing import Any

from reconciler.api.pieces import each
from reconciler.controller import Availability, Controller, RecordView
from reconciler.core.errors import Problem


async def askable(controller: Controller) -> list[dict[str, Any]]:
    """List these models, records first. Raises `LoadError` if the disk cannot be read."""
    views = await each(controller.answers(), lambda view: _rows(controller, view))
    found = [row for rows in views for row in rows]
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
    """Find the model that a request for `name` would use, if any. Raises as `askable`."""
    availability = controller.availability(name)
    view = controller.answer(controller.named(name) or name)
    if availability is Availability.NOT_LOADED:
        lowered = name.lower()
        keys = [e.key for e in await controller.models() if not isinstance(e.facts, Problem)]
        if all(key.lower() != lowered for key in keys):
            return None
    if availability is None:
        return None
    if view is None:
        return _row(name, availability)
    return next((row for row in _rows(controller, view) if row["id"] == name), None)


def _rows(controller: Controller, view: RecordView) -> list[dict[str, Any]]:
    """Rows of a record and its aliases; empty if the record cannot answer requests."""
    record = view.record
    availability = controller.availability(record.name)
    if availability is None:
        return []
    row = _row(record.name, availability, int(record.created_at.timestamp()))
    aliases = controller.aliases(record)
    return [row, *(row | {"id": alias, "alias_of": record.name} for alias in aliases)]


def _row(name: str, availability: Availability, created: int = 0) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "reconciler",
        "state": availability,
    }

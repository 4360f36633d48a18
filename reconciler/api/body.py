"""Request bodies: JSON, bounded, checked against a published schema, parsed once."""

from typing import Any

import msgspec
from aiohttp import web

from reconciler.api.errors import ApiError, of_mistake
from reconciler.core.schema import SchemaName, check

MAX_BYTES = 1_000_000


async def read(request: web.Request, schema: SchemaName) -> dict[str, Any]:
    """The body as an object that fits `schema`. Raises `ApiError` naming what does not."""
    data = await request.read()
    if len(data) > MAX_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BYTES, len(data))
    try:
        # Stricter than the json module: no NaN, no half of a surrogate pair.
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_json") from None
    mistakes = check(schema, body)
    if mistakes:
        raise of_mistake(mistakes[0])
    checked: dict[str, Any] = body
    return checked

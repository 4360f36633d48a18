"""Refusal of query parameters that a route does not have.

An ignored parameter is as wrong as an ignored key of a body: `DELETE .../KEY?revision=v1` removed
all revisions. Only reconciler's own routes are strict; clients of other APIs send parameters of
their own, and probes and scrapers add some to `/health` and `/metrics`.
"""

from aiohttp import web

from reconciler.api.describe import OPERATIONS
from reconciler.api.errors import ApiError, Handler

OWN = "/api/v1/"
"""Prefix of reconciler's own routes."""


@web.middleware
async def refuse_unknown_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pass on a request if its route has each of its query parameters. Raises `ApiError`."""
    operation = OPERATIONS.get(request.match_info.handler)
    if operation is not None and request.path.startswith(OWN) and request.query:
        known = {parameter.name for parameter in operation.query}
        for key in request.query:
            if key not in known:
                hint = f"; known parameters: {', '.join(sorted(known))}" if known else ""
                message = f"Unrecognized query parameter '{key}'{hint}"
                raise ApiError(400, "invalid_request", message, "unrecognized_keys", key)
            if len(request.query.getall(key)) > 1:
                message = f"the query parameter '{key}' is given more than once"
                raise ApiError(400, "invalid_request", message, "invalid_value", key)
    return await handler(request)

"""CORS headers, which let pages of allowed origins send requests and read responses.

Source: the Fetch standard, "HTTP CORS protocol"; Private Network Access for the header of its name.
Browser credentials (cookies) are never allowed: the daemon uses none.
"""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from reconciler.api.errors import ApiError
from reconciler.api.origins import ANY, Access

METHODS = "GET, HEAD, POST, PUT, DELETE, PATCH"

HEADERS = (
    "Authorization, Content-Type, Accept, Prefer, x-api-key, anthropic-version, anthropic-beta, "
    "anthropic-dangerous-direct-browser-access"
)
"""Request headers that a preflight allows if it names none."""

EXPOSED = "X-Reconciler-Instance, Retry-After, Request-Id, X-Request-Id"
"""Response headers that pages may read, in addition to those that are always readable."""

MAX_AGE = "600"
"""Seconds for which a browser may cache the response to a preflight."""

_ASKED = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}(\s*,\s*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}){0,99}"
)
"""List of header names. Source: RFC 9110, token."""

_FORBIDDEN = web.HTTPForbidden.status_code


def is_preflight(request: web.Request) -> bool:
    """True if the request is a CORS preflight."""
    sent = request.headers
    return (
        request.method == "OPTIONS" and "Origin" in sent and "Access-Control-Request-Method" in sent
    )


def is_own(request: web.Request, origin: str) -> bool:
    """True if `origin` is the daemon itself, under the host name of the request."""
    scheme, _, place = origin.partition("://")
    named = request.host if "Host" in request.headers else None
    return scheme in ("http", "https") and place == named


def preflight(request: web.Request, access: Access) -> web.Response:
    """Answer a preflight. Raises `ApiError` if the origin is not allowed."""
    for origin in request.headers.getall("Origin"):
        if not is_own(request, origin) and not access.allows_origin(origin):
            raise refusal(origin)
    asked = ", ".join(request.headers.getall("Access-Control-Request-Headers", []))
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        # Every requested header is allowed: SDKs send their own, such as x-stainless-os.
        "Access-Control-Allow-Headers": asked if _ASKED.fullmatch(asked) else HEADERS,
        "Access-Control-Max-Age": MAX_AGE,
    }
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=web.HTTPNoContent.status_code, headers=headers)


def refusal(origin: str) -> ApiError:
    """The error for an origin that is not allowed."""
    message = f"origin {origin} is not allowed; start the daemon with --allow-origin {origin}"
    if origin == "null":
        message = (
            "origin null, which local files and sandboxed pages send, is not allowed; start the "
            "daemon with a token (--token-file) and --allow-origin '*'"
        )
    return ApiError(_FORBIDDEN, "invalid_request", message, "origin_not_allowed")


def response_headers(
    access: Access,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Make the signal handler that adds CORS headers to responses, errors and streams."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        if not access.origins:
            return
        vary = response.headers.getall("Vary", [])
        response.headers["Vary"] = ", ".join([*vary, "Origin"])
        origins = request.headers.getall("Origin", [])
        if len(origins) == 1 and access.allows_origin(origins[0]):
            allowed = ANY if ANY in access.origins else origins[0]
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = EXPOSED

    return add_headers

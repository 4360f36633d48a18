"""What browsers are told, so that pages of allowed origins can ask and read (CORS).

Source: the Fetch standard, "HTTP CORS protocol"; Private Network Access for the header of its name.
Credentials of the browser's own, cookies, are never allowed: there are none.
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
"""Of requests, for a preflight that does not say which it is about."""

EXPOSED = "X-Reconciler-Instance, Retry-After, Request-Id, X-Request-Id"
"""Headers of answers that pages may read, beside those that they always may."""

MAX_AGE = "600"
"""Seconds that a browser need not ask again."""

_ASKED = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}(\s*,\s*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}){0,99}"
)
"""A list of names of headers: RFC 9110, token."""

_FORBIDDEN = web.HTTPForbidden.status_code


def is_preflight(request: web.Request) -> bool:
    """True if a browser asks whether a page may send a request."""
    sent = request.headers
    return (
        request.method == "OPTIONS" and "Origin" in sent and "Access-Control-Request-Method" in sent
    )


def is_own(request: web.Request, origin: str) -> bool:
    """True if `origin` is the daemon itself, by the name that the request asks it by."""
    scheme, _, place = origin.partition("://")
    named = request.host if "Host" in request.headers else None
    return scheme in ("http", "https") and place == named


def preflight(request: web.Request, access: Access) -> web.Response:
    """The answer to a preflight. Raises `ApiError` for a page that is not allowed."""
    for origin in request.headers.getall("Origin"):
        if not is_own(request, origin) and not access.allows_origin(origin):
            raise refusal(origin)
    asked = ", ".join(request.headers.getall("Access-Control-Request-Headers", []))
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        # What is asked about is allowed: SDKs send headers of their own, such as x-stainless-os.
        "Access-Control-Allow-Headers": asked if _ASKED.fullmatch(asked) else HEADERS,
        "Access-Control-Max-Age": MAX_AGE,
    }
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=web.HTTPNoContent.status_code, headers=headers)


def refusal(origin: str) -> ApiError:
    """The error of a page that is not allowed."""
    message = f"origin {origin} is not allowed; start the daemon with --allow-origin {origin}"
    if origin == "null":
        message = (
            "origin null, which is that of files and of sandboxed pages, is not allowed; start the "
            "daemon with a token (--token-file) and --allow-origin '*'"
        )
    return ApiError(_FORBIDDEN, "invalid_request", message, "origin_not_allowed")


def response_headers(
    access: Access,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What is called before the headers of any answer are sent, errors and streams included."""

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

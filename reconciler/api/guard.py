"""Who may speak to the daemon: the token, and the Host and Origin of browsers.

A page that a browser shows can send requests to loopback, and a name under an attacker's
control can resolve to it; so the host must be one that the daemon serves, and an Origin must be
the daemon's own.
"""

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from reconciler.api.errors import ApiError, Handler


def guard(host: str, token: str | None) -> Middleware:
    """A middleware that refuses strangers. `host` is the address that is listened on."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            # With a token any host is fine: a page cannot know it.
            _check_names(request, host)
        elif not _has_token(request, token):
            message = "send the daemon's token as `Authorization: Bearer TOKEN`"
            raise ApiError(401, "invalid_request", message, "invalid_api_key")
        return await handler(request)

    return check


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_names(request: web.Request, host: str) -> None:
    asked = urlsplit(f"//{request.host}").hostname or ""
    if asked != host and not is_loopback(asked):
        raise ApiError(403, "invalid_request", f"host {asked} is not served", "host_not_allowed")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise ApiError(
            403, "invalid_request", f"origin {origin} is not allowed", "origin_not_allowed"
        )


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(sent.encode(), token.encode())

"""Who may speak to the daemon: the token, and the Host and Origin of browsers.

A page that a browser shows can send requests to loopback, and a name under an attacker's
control can resolve to it; so the host must be one that the daemon serves, and an Origin must be
the daemon's own.
"""

import hmac
import re
from ipaddress import ip_address

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
            message = (
                "send the daemon's token as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`"
            )
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
    # Browsers always send the header; health checks in HTTP/1.0 do not, and for them `request.host`
    # would ask the network for a name.
    named = request.host if "Host" in request.headers else None
    asked = None if named is None else _hostname(named)
    if asked is not None and asked != host and not is_loopback(asked):
        message = f"host {asked or named} is not served"
        raise ApiError(403, "invalid_request", message, "host_not_allowed")
    for origin in request.headers.getall("Origin", []):
        scheme, _, place = origin.partition("://")
        if scheme not in ("http", "https") or place != named:
            message = f"origin {origin} is not allowed"
            raise ApiError(403, "invalid_request", message, "origin_not_allowed")


def _hostname(host: str) -> str:
    """The name or address in a `Host` header; empty if it is malformed."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found["address"] or found["name"]).lower()


_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._-]+))(?::[0-9]{1,5})?")


def _has_token(request: web.Request, token: str) -> bool:
    """True if one of the headers has it: Anthropic's clients send `x-api-key`, some send both."""
    given = [_only(request, "x-api-key")]
    scheme, _, credentials = _only(request, "Authorization").partition(" ")
    if scheme.lower() == "bearer":
        given.append(credentials)
    # As the bytes that were sent: what is no UTF-8 must not fail. All are compared, in even time.
    same = [
        hmac.compare_digest(one.encode("utf-8", "surrogateescape"), token.encode()) for one in given
    ]
    return any(same)


def _only(request: web.Request, header: str) -> str:
    """The value of a header that was sent once; else ""."""
    sent = request.headers.getall(header, [])
    return sent[0] if len(sent) == 1 else ""

"""Access control: the token, and the Host, Origin and site that browsers send.

A page in a browser can send requests to loopback, and a host name under an attacker's control can
resolve to it. Without a token:

- `Host` must be a name of the daemon, so that other names cannot be used (DNS rebinding);
- `Origin`, if present, must be the daemon's own or one that `serve` allows;
- `Sec-Fetch-Site` must not be `cross-site`, unless an allowed Origin comes with it. It covers
  requests without an Origin: images, scripts, and links from other sites. `same-site` and `none`
  pass: without an Origin they are a GET whose response no page can read.

With a token none of this matters: a page cannot know it. Preflights are answered before it is asked
for, as browsers send none with them; so are the files of the live page, which asks for the token
itself.
"""

import hmac
import re

from aiohttp import web
from aiohttp.typedefs import Middleware

from reconciler.api import cors
from reconciler.api.errors import ApiError, Handler
from reconciler.api.origins import Access, is_loopback
from reconciler.api.page import is_page

__all__ = ["guard", "is_loopback"]

_FORBIDDEN = web.HTTPForbidden.status_code


def guard(access: Access) -> Middleware:
    """Make the middleware that rejects unauthorized requests and answers preflights."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if access.token is None:
            _check_host(request, access)
            _check_page(request, access)
        if cors.is_preflight(request):
            return cors.preflight(request, access)
        if is_page(request):
            return await handler(request)
        if access.token is not None and not _has_token(request, access.token):
            message = (
                "send the daemon's token as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`"
            )
            raise ApiError(401, "invalid_request", message, "invalid_api_key")
        return await handler(request)

    return check


def _check_host(request: web.Request, access: Access) -> None:
    # Browsers always send the header. HTTP/1.0 health checks do not, and `request.host` would then
    # query the network for a host name.
    if "Host" not in request.headers:
        return
    named = request.host
    asked = _hostname(named)
    if access.serves(asked):
        return
    message = f"host {asked or named} is not served"
    if asked:
        message += f"; if it is a name of this machine, start the daemon with --allow-host {asked}"
    raise ApiError(_FORBIDDEN, "invalid_request", message, "host_not_allowed")


def _check_page(request: web.Request, access: Access) -> None:
    origins = request.headers.getall("Origin", [])
    for origin in origins:
        if not cors.is_own(request, origin) and not access.allows_origin(origin):
            raise cors.refusal(origin)
    sites = [site.strip().lower() for site in request.headers.getall("Sec-Fetch-Site", [])]
    if "cross-site" in sites and not any(access.allows_origin(origin) for origin in origins):
        message = (
            "the request comes from another site (Sec-Fetch-Site: cross-site) and has no allowed "
            "Origin; open the address directly, or have the page fetch it from an origin that "
            "--allow-origin allows"
        )
        raise ApiError(_FORBIDDEN, "invalid_request", message, "origin_not_allowed")


def _hostname(host: str) -> str:
    """Name or address in a `Host` header; empty if the header is malformed."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found["address"] or found["name"]).lower()


_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._-]+))(?::[0-9]{1,5})?")


def _has_token(request: web.Request, token: str) -> bool:
    """True if a header has the token: Anthropic's clients send `x-api-key`, some send both."""
    given = [_only(request, "x-api-key")]
    scheme, _, credentials = _only(request, "Authorization").partition(" ")
    if scheme.lower() == "bearer":
        given.append(credentials)
    # Compared as the bytes sent: invalid UTF-8 must not fail. All are compared, in constant time.
    same = [
        hmac.compare_digest(one.encode("utf-8", "surrogateescape"), token.encode()) for one in given
    ]
    return any(same)


def _only(request: web.Request, header: str) -> str:
    """Value of a header that was sent exactly once, else ""."""
    sent = request.headers.getall(header, [])
    return sent[0] if len(sent) == 1 else ""

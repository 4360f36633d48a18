"""The live page: `/` and the files below `/page/`.

The page consists of static files of this package. Its scripts request all data from the API, so the
files contain no secrets and need no token. The Content-Security-Policy blocks scripts, styles and
requests of any other origin, and Trusted Types block markup that is built from strings.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web

from reconciler import __version__
from reconciler.api.describe import describe

routes = web.RouteTableDef()

RUNNING = f"reconciler {__version__} is running; it answers Ollama's API below /api"

SERVES_PAGE = web.AppKey("serves_page", bool)

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    compressed: bytes
    type: str
    etag: str


def is_page(request: web.Request) -> bool:
    """True if the request is for a file of the page, which needs no token."""
    if request.method not in ("GET", "HEAD") or not request.app[SERVES_PAGE]:
        return False
    return request.path.startswith("/page/") or (request.path == "/" and _takes_html(request))


@routes.get("/")
@describe({200: {"type": "string"}}, content_type="text/plain")
async def root(request: web.Request) -> web.Response:
    """The live page for a client that accepts HTML, else a line of text, as Ollama answers."""
    response = _answer(request, "index.html") if is_page(request) else web.Response(text=RUNNING)
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response


@routes.get("/page/{file:.+}")
@describe({200: {"type": "string"}}, content_type="text/javascript")
async def file(request: web.Request) -> web.Response:
    """A script or a style of the live page."""
    name = request.match_info["file"]
    if not request.app[SERVES_PAGE] or name not in _names():
        raise web.HTTPNotFound
    response = _answer(request, name)
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _takes_html(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _answer(request: web.Request, name: str) -> web.Response:
    served = _file(name)
    headers = {**_HEADERS, "ETag": served.etag}
    if served.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=web.HTTPNotModified.status_code, headers=headers)
    body = served.body
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        body = served.compressed
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers, content_type=served.type, charset="utf-8")


@cache
def _names() -> frozenset[str]:
    """Served files, relative to the folder of the page."""
    return frozenset(_below(files("reconciler") / "page", ""))


def _below(folder: Traversable, prefix: str) -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.is_dir():
            names += _below(entry, f"{prefix}{entry.name}/")
        elif _suffix(entry.name) in _TYPES:
            names.append(prefix + entry.name)
    return names


@cache
def _file(name: str) -> _File:
    body = (files("reconciler") / "page" / name).read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, gzip.compress(body, mtime=0), _TYPES[_suffix(name)], etag)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]

"""The page as the application serves it: clients that receive it, headers and size."""

import gzip
import hashlib
import posixpath
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.client import ClientResponse

from reconciler.api.app import build

PAGE = Path("reconciler/page")
TOKEN = "zirconium"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_TRANSFERRED = 150_000

VENDORED = {
    "vendor/preact.mjs": "225d7a773766e6fb2cfcc45274fe41d2059f5782f3f2c4569aa5132a2d3a2902",
    "vendor/hooks.mjs": "13518e8899847145604866b14612f994ed70d894a423b64694b6e764d7b956c9",
    "vendor/htm.mjs": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
}
"""SHA-256 of the files in the packages that vendor/README.md names."""


@asynccontextmanager
async def serving(token: str | None = None, *, serves_page: bool = True) -> AsyncIterator["Asking"]:
    app = build(None, "127.0.0.1", token, serves_page=serves_page)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ClientSession(auto_decompress=False) as session:
            yield Asking(session, "http://{}:{}".format(*runner.addresses[0]))
    finally:
        await runner.cleanup()


class Asking:
    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(self, path: str, **headers: str) -> tuple[ClientResponse, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.get(self._url + path, headers=sent) as reply:
            return reply, await reply.read()


def files() -> list[str]:
    kinds = {".html", ".css", ".js", ".mjs"}
    return [str(p.relative_to(PAGE)) for p in sorted(PAGE.rglob("*")) if p.suffix in kinds]


async def test_browsers_receive_the_page_and_programs_a_line_of_text() -> None:
    async with serving() as ask:
        reply, body = await ask("/", **HTML, Accept_Encoding="identity")
        assert (reply.status, reply.content_type) == (200, "text/html")
        assert b"/page/js/app.js" in body
        for accept in ("*/*", "text/plain", "application/json"):
            reply, body = await ask("/", Accept=accept)
            assert (reply.status, reply.content_type) == (200, "text/plain")
            assert b" is running; it answers Ollama's API" in body
            assert "Accept" in reply.headers["Vary"]


def test_every_referenced_file_exists() -> None:
    there = set(files())
    for name in there:
        text = (PAGE / name).read_text("utf-8")
        named = set(re.findall(r"(?:src|href)=\"/page/([^\"]+)\"", text))
        for imported in re.findall(r"from ?['\"](\.[^'\"]+)['\"]", text):
            named.add(posixpath.normpath(posixpath.join(posixpath.dirname(name), imported)))
        assert named <= there, name


async def test_the_page_is_small_and_sent_only_once() -> None:
    total = 0
    async with serving() as ask:
        for name in files():
            path = "/" if name == "index.html" else f"/page/{name}"
            reply, body = await ask(path, **HTML, Accept_Encoding="gzip")
            assert reply.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(body) == (PAGE / name).read_bytes()
            total += len(body) + sum(len(k) + len(v) + 4 for k, v in reply.headers.items())
            again, body = await ask(path, **HTML, If_None_Match=reply.headers["ETag"])
            assert (again.status, body) == (304, b"")
    assert 10_000 < total < MAX_TRANSFERRED


async def test_the_policy_allows_nothing_from_other_origins() -> None:
    async with serving() as ask:
        for path in ("/", "/page/js/app.js", "/page/style.css"):
            headers = (await ask(path, **HTML))[0].headers
            policy = dict(
                directive.split(" ", 1)
                for directive in headers["Content-Security-Policy"].split("; ")
            )
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["form-action"] == "'none'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert headers["X-Content-Type-Options"] == "nosniff"


def test_no_file_names_another_origin_or_writes_markup() -> None:
    for name in files():
        text = (PAGE / name).read_text("utf-8")
        addresses = set(re.findall(r"https?://[^\s'\"`)<>]+", text))
        assert addresses <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xhtml",
            "http://www.w3.org/1998/Math/MathML",
        }, name
        if not name.startswith("vendor/"):
            assert "innerHTML" not in text
            assert "dangerouslySetInnerHTML" not in text
            assert not re.search(r"\beval\(|new Function|\bstyle=\"|\bon[a-z]+=\"", text), name


async def test_files_that_are_not_of_the_page_are_not_served() -> None:
    async with serving() as ask:
        for path in ("/page/", "/page/../api/page.py", "/page/%2e%2e/api/page.py", "/page/vendor"):
            assert (await ask(path))[0].status == 404
        assert (await ask("/page/vendor/README.md"))[0].status == 404


async def test_the_files_need_no_token_but_the_api_does() -> None:
    async with serving(TOKEN) as ask:
        assert (await ask("/", **HTML))[0].status == 200
        assert (await ask("/page/js/app.js"))[0].status == 200
        for path in ("/", "/api/v1/records", "/page"):
            assert (await ask(path, Accept="*/*"))[0].status == 401


async def test_the_page_can_be_turned_off() -> None:
    async with serving(serves_page=False) as ask:
        reply, body = await ask("/", **HTML)
        assert (reply.content_type, b" is running" in body) == ("text/plain", True)
        assert (await ask("/page/js/app.js"))[0].status == 404
    async with serving(TOKEN, serves_page=False) as ask:
        assert (await ask("/", **HTML))[0].status == 401
        assert (await ask("/page/js/app.js"))[0].status == 401


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Sec_Fetch_Site": "cross-site"}], ids=["host", "site"]
)
async def test_without_a_token_other_sites_do_not_receive_the_page(headers: dict[str, str]) -> None:
    async with serving() as ask:
        reply, body = await ask("/", **HTML, **headers)
        assert reply.status == 403
        assert b"not_allowed" in body


@pytest.mark.parametrize("name", VENDORED)
def test_vendored_files_are_unmodified(name: str) -> None:
    assert hashlib.sha256((PAGE / name).read_bytes()).hexdigest() == VENDORED[name]

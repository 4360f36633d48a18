"""Requests from web pages, with the headers that browsers send under the Fetch standard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web

from reconciler.api import early_stream
from reconciler.api.app import build
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.protocol import Reply

PAGE = "https://chat.example"
EVIL = "https://evil.example"
TOKEN = "zirconium"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}

STREAM = {"model": "a", "stream": True}

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Dest": "empty",
}


class Answering:
    """A controller whose only instance answers in one chunk or not at all."""

    stopping = False
    jit = False
    machine = None

    def __init__(self) -> None:
        self.problem: Problem | None = None
        self.ready = asyncio.Event()
        self.ready.set()

    def answers(self) -> tuple[Any, ...]:
        return ()

    def serves(self, _model: str) -> bool:
        return self.ready.is_set()

    def facts(self, _name: str) -> None:
        return None

    async def ready_for(self, model: str, _idle_ttl_seconds: int | None = None) -> str:
        await self.ready.wait()
        if self.problem is not None:
            raise LoadError(self.problem)
        return model

    @asynccontextmanager
    async def request(self, *_: object) -> AsyncIterator[Reply]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"

        yield Reply(200, "text/event-stream", chunks())


class Served:
    """The application that `serve` builds."""

    def __init__(self) -> None:
        self.controller: Any = Answering()
        self.runner: web.AppRunner

    async def start(self, token: str | None, origins: list[str], hosts: list[str]) -> None:
        app = build(self.controller, "127.0.0.1", token, origins=origins, hosts=hosts)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> AsyncIterator[ClientResponse]:
        host, port = self.runner.addresses[0]
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://{host}:{port}{path}"
        async with (
            ClientSession() as client,
            client.request(method, url, json=body, headers=sent) as reply,
        ):
            yield reply

    async def status(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        async with self.ask(method, path, body, **headers) as reply:
            return reply.status

    async def refusal(self, method: str, path: str, **headers: str) -> tuple[int, str, str]:
        async with self.ask(method, path, **headers) as reply:
            error = (await reply.json())["error"]
            return reply.status, error["code"], error["message"]


@pytest.fixture
async def serving(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    monkeypatch.setattr(early_stream, "KEEP_ALIVE_SECONDS", 0.01)
    served = Served()
    await served.start(*request.param)
    yield served
    await served.runner.cleanup()


def with_access(
    *origins: str, token: str | None = None, hosts: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    arguments = (token, list(origins), list(hosts))
    return pytest.mark.parametrize("serving", [arguments], indirect=True)


@with_access(PAGE, token=TOKEN)
async def test_a_preflight_of_an_allowed_page_needs_no_token(serving: Served) -> None:
    more = PREFLIGHT | {"Access-Control-Request-Private-Network": "true"}
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/no/such"):
        async with serving.ask("OPTIONS", path, Origin=PAGE, **more) as reply:
            headers = reply.headers
            assert reply.status == 204
            assert headers["Access-Control-Allow-Origin"] == PAGE
            assert "Origin" in headers["Vary"]
            assert "POST" in headers["Access-Control-Allow-Methods"]
            allowed = {h.strip() for h in headers["Access-Control-Allow-Headers"].split(",")}
            assert allowed == {"authorization", "content-type", "x-stainless-os"}
            assert headers["Access-Control-Allow-Private-Network"] == "true"
            assert "Access-Control-Allow-Credentials" not in headers


@with_access(PAGE)
async def test_a_preflight_without_valid_headers_gets_the_usual_ones(serving: Served) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    for odd in ({}, {"Access-Control-Request-Headers": "a b; c"}):
        async with serving.ask("OPTIONS", "/v1/messages", Origin=PAGE, **asked, **odd) as reply:
            allowed = reply.headers["Access-Control-Allow-Headers"].lower()
            assert "Access-Control-Allow-Private-Network" not in reply.headers
    for name in ("authorization", "x-api-key", "anthropic-version", "content-type"):
        assert name in allowed


@pytest.mark.parametrize("serving", [(None, [PAGE], []), (TOKEN, [PAGE], [])], indirect=True)
async def test_a_refused_preflight_of_another_page_names_the_option(serving: Served) -> None:
    for origin in (EVIL, PAGE + ".evil.example", PAGE + ":8443", "http://chat.example"):
        status, code, message = await serving.refusal("OPTIONS", "/", Origin=origin, **PREFLIGHT)
        assert (status, code) == (403, "origin_not_allowed")
        assert f"--allow-origin {origin}" in message
    async with serving.ask("OPTIONS", "/", Origin=EVIL, **PREFLIGHT) as reply:
        assert "Access-Control-Allow-Origin" not in reply.headers


@with_access(PAGE)
async def test_an_options_request_that_is_not_a_preflight_is_refused(serving: Served) -> None:
    assert await serving.status("OPTIONS", "/v1/models") == 405
    assert await serving.status("OPTIONS", "/v1/models", Origin=PAGE) == 405


@with_access(PAGE)
async def test_an_allowed_page_can_read_every_kind_of_response(serving: Served) -> None:
    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}

    async def check(method: str, path: str, body: Any, status: int) -> bytes:
        async with serving.ask(method, path, body, **page) as reply:
            assert reply.status == status
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
            assert reply.headers["Vary"] == "Origin"
            assert "X-Reconciler-Instance" in reply.headers["Access-Control-Expose-Headers"]
            return await reply.read()

    await check("GET", "/v1/models", None, 200)
    await check("GET", "/no/such", None, 404)
    await check("DELETE", "/v1/models", None, 405)
    await check("POST", "/v1/completions", {}, 400)
    await check("POST", "/v1/completions", STREAM, 200)
    serving.controller.ready.clear()
    early = asyncio.create_task(check("POST", "/v1/completions", STREAM, 200))
    await asyncio.sleep(0.05)
    serving.controller.ready.set()
    assert (await early).startswith(b": keep-alive")
    serving.controller.problem = Problem(Reason.STOPPING, "it stops")
    await check("POST", "/v1/completions", {"model": "a"}, 503)


@with_access(PAGE, token=TOKEN)
async def test_an_allowed_page_can_read_that_its_token_is_wrong(serving: Served) -> None:
    async with serving.ask("GET", "/v1/models", Origin=PAGE, Authorization="Bearer x") as reply:
        assert reply.status == 401
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    async with serving.ask("GET", "/v1/models", Origin=PAGE, **AUTHORIZED) as reply:
        assert reply.status == 200


@with_access("*", token=TOKEN)
async def test_all_pages_may_be_allowed_if_a_token_is_required(serving: Served) -> None:
    for origin in (EVIL, "null", "app://obsidian.md"):
        async with serving.ask("OPTIONS", "/v1/models", Origin=origin, **PREFLIGHT) as reply:
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert await serving.status("GET", "/v1/models", Origin=origin) == 401
        async with serving.ask("GET", "/v1/models", Origin=origin, **AUTHORIZED) as reply:
            assert reply.headers["Access-Control-Allow-Origin"] == "*"


@with_access()
async def test_pages_of_other_sites_are_refused_by_default(serving: Served) -> None:
    for origin in (EVIL, PAGE, "null", "http://localhost:3000"):
        for method in ("GET", "POST", "OPTIONS"):
            status, code, _ = await serving.refusal(method, "/v1/models", Origin=origin)
            assert (status, code) == (403, "origin_not_allowed")
    async with serving.ask("GET", "/v1/models") as reply:
        assert not {"Vary", "Access-Control-Allow-Origin"} & set(reply.headers)


@pytest.mark.parametrize("serving", [(None, [], []), (None, [PAGE], [])], indirect=True)
@pytest.mark.parametrize(
    ("site", "mode", "dest"),
    [
        ("cross-site", "no-cors", "image"),
        ("cross-site", "no-cors", "script"),
        ("cross-site", "navigate", "document"),
        ("cross-site", "navigate", "iframe"),
    ],
)
async def test_requests_embedded_or_linked_by_other_sites_are_refused(
    serving: Served, site: str, mode: str, dest: str
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    status, code, message = await serving.refusal("GET", "/v1/models", **headers)
    assert (status, code) == (403, "origin_not_allowed")
    assert "--allow-origin" in message


@with_access()
async def test_direct_visits_and_the_daemons_own_pages_are_answered(serving: Served) -> None:
    for site in ("none", "same-origin", "same-site", ""):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"} if site else {}
        assert await serving.status("GET", "/v1/models", **headers) == 200
    own = "http://{}:{}".format(*serving.runner.addresses[0])
    assert await serving.status("GET", "/v1/models", Origin=own) == 200


@with_access(PAGE, hosts=("host.docker.internal", ".local"))
async def test_allowed_hosts_are_served_and_refusals_of_others_name_the_option(
    serving: Served,
) -> None:
    for host in ("host.docker.internal:1234", "mac.local", "MAC.LOCAL:80"):
        assert await serving.status("GET", "/v1/models", Host=host) == 200
    for host in ("evil.example", "docker.internal", "x.host.docker.internal", "local"):
        status, code, message = await serving.refusal("GET", "/v1/models", Host=f"{host}:1234")
        assert (status, code) == (403, "host_not_allowed")
        assert f"--allow-host {host}" in message
    own = "http://mac.local:1234"
    assert await serving.status("GET", "/v1/models", Host="mac.local:1234", Origin=own) == 200


@with_access(PAGE)
async def test_a_host_that_resolves_to_this_machine_is_refused_unless_allowed(
    serving: Served,
) -> None:
    """DNS rebinding: page and request share the attacker's host name and thus one origin."""
    rebound = {"Host": "evil.example:1234", "Origin": "http://evil.example:1234"}
    same = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    for method in ("GET", "POST"):
        status, code, _ = await serving.refusal(method, "/v1/models", **rebound, **same)
        assert (status, code) == (403, "host_not_allowed")
    asked = {"Access-Control-Request-Method": "POST"}
    assert await serving.status("OPTIONS", "/", **(rebound | {"Origin": PAGE}), **asked) == 403

"""The comparison with other servers: its client, turns, table, installation and processes."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.measure import Result
from benchmarks.peers import install, processes, rows, run, servers
from benchmarks.peers.client import Answer, Chat, FailedError
from benchmarks.peers.install import SkippedError
from benchmarks.peers.processes import Tree
from benchmarks.peers.servers import Place, Program, Server
from benchmarks.peers.table import Row, table
from benchmarks.peers.turns import Figures, Measured, in_turns

Handler = Callable[[web.Request, web.StreamResponse, dict[str, Any]], Any]

USAGE = {"choices": [], "usage": {"completion_tokens": 3}}


def text(piece: str, key: str = "content") -> dict[str, Any]:
    return {"choices": [{"delta": {key: piece}}]}


@asynccontextmanager
async def fake(handler: Handler) -> AsyncIterator[str]:
    """A server that streams what `handler` writes."""

    async def chat(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        await handler(request, reply, await request.json())
        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def say(reply: web.StreamResponse, *events: dict[str, Any]) -> None:
    for event in events:
        await reply.write(f"data: {json.dumps(event)}\n\n".encode())


@pytest.mark.parametrize(
    ("begin", "end", "longest"),
    [(0.0, 100.0, 20.0), (15.0, 16.0, 20.0), (31.0, 31.5, 1.0), (50.0, 60.0, 0.0)],
)
def test_the_longest_gap_is_one_that_overlaps_the_span(
    begin: float, end: float, longest: float
) -> None:
    assert Answer(0.0, [10.0, 30.0, 31.0, 32.0]).longest_gap(begin, end) == longest


async def test_an_answer_has_the_time_of_each_text_and_the_number_of_tokens() -> None:
    async def handler(_: web.Request, reply: web.StreamResponse, body: dict[str, Any]) -> None:
        assert body["max_tokens"] == 3
        await reply.write(b": keepalive\n\n")
        await say(reply, {"choices": [{"delta": {"role": "assistant"}}]}, text("a"))
        await say(reply, text("b", "reasoning_content"), text(""), USAGE)
        await reply.write(b"data: [DONE]\n\n")

    async with fake(handler) as url, Chat(url, "m") as chat:
        answer = await chat.ask("hello", 3)
    assert (len(answer.times), answer.tokens) == (2, 3)
    assert answer.first == answer.times[0] - answer.sent > 0


async def test_an_answer_of_half_a_character_has_a_first_time_too() -> None:
    async def handler(_: web.Request, reply: web.StreamResponse, __: dict[str, Any]) -> None:
        await say(reply, USAGE)

    async with fake(handler) as url, Chat(url, "m") as chat:
        assert (await chat.ask("hello", 3)).first > 0


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([text("a"), {"error": {"message": "out of memory"}}], "out of memory"),
        ([text("a"), text("b")], "2 pieces of text without its usage"),
        ([], "0 pieces of text without its usage"),
        ([{"choices": None}, {"choices": [{"delta": None}]}], "0 pieces of text without"),
    ],
)
async def test_a_broken_stream_is_a_failure(events: list[dict[str, Any]], reason: str) -> None:
    async def handler(_: web.Request, reply: web.StreamResponse, __: dict[str, Any]) -> None:
        await say(reply, *events)

    async with fake(handler) as url, Chat(url, "m") as chat:
        with pytest.raises(FailedError, match=reason):
            await chat.ask("hello", 3)


async def test_an_event_that_is_not_json_is_a_failure() -> None:
    async def handler(_: web.Request, reply: web.StreamResponse, __: dict[str, Any]) -> None:
        await reply.write(b"data: {\n\n")

    async with fake(handler) as url, Chat(url, "m") as chat:
        with pytest.raises(FailedError, match="not JSON"):
            await chat.ask("hello", 3)


async def test_a_refusal_is_a_failure_with_its_text() -> None:
    async def handler(request: web.Request, *_: Any) -> None:
        del request

    async with fake(handler) as url, Chat(url + "/elsewhere", "m") as chat:
        with pytest.raises(FailedError, match="404: Not Found"):
            await chat.ask("hello", 3)


def server(url: str, tmp_path: Path) -> Server:
    """A server whose processes are this one."""
    return Server(url, "m", Tree(psutil.Process().pid, tmp_path / "log"), 0.0)


async def test_a_stream_beside_a_long_prompt_is_left_after_its_gap(tmp_path: Path) -> None:
    read, left = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request, reply: web.StreamResponse, body: dict[str, Any]) -> None:
        if body["max_tokens"] == 1:
            await say(reply, text("a"), USAGE)
            read.set()
            return
        await say(reply, *[text("a")] * rows.RUNNING_TOKENS)
        await read.wait()
        try:
            while True:
                await say(reply, text("b"))
                await asyncio.sleep(0)
        finally:  # whether the write fails or the handler is cancelled
            left.set()

    async with fake(handler) as url:
        figures = await rows.stall(2500)(server(url, tmp_path))
        await left.wait()
    assert set(figures) == {"gap", "first"}
    assert min(figures.values()) > 0


@pytest.mark.parametrize("pieces", [rows.RUNNING_TOKENS - 1, rows.RUNNING_TOKENS])
async def test_a_stream_that_ends_too_early_has_no_gap(pieces: int, tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handler(_: web.Request, reply: web.StreamResponse, body: dict[str, Any]) -> None:
        if body["max_tokens"] == 1:
            await ended.wait()
            await say(reply, text("a"))
        else:
            await say(reply, *[text("a")] * pieces)
            ended.set()
        await say(reply, USAGE)

    async with fake(handler) as url:
        with pytest.raises(FailedError, match="ended before the prompt was read"):
            await rows.stall(10)(server(url, tmp_path))


async def test_a_long_prompt_that_is_refused_is_a_failure(tmp_path: Path) -> None:
    async def handler(_: web.Request, reply: web.StreamResponse, body: dict[str, Any]) -> None:
        if body["max_tokens"] == 1:
            await say(reply, {"error": {"message": "longer than the context"}})
            return
        while True:
            await say(reply, text("a"))
            await asyncio.sleep(0)

    async with fake(handler) as url:
        with pytest.raises(FailedError, match="longer than the context"):
            await rows.stall(10)(server(url, tmp_path))


async def test_throughput_counts_the_tokens_of_all_requests(tmp_path: Path) -> None:
    prompts: list[str] = []

    async def handler(_: web.Request, reply: web.StreamResponse, body: dict[str, Any]) -> None:
        prompts.append(body["messages"][0]["content"])
        await say(reply, text("a"), text("b"), USAGE)

    async with fake(handler) as url:
        figures = await rows.throughput(8)(server(url, tmp_path))
        await rows.agent(server(url, tmp_path))
    assert len(set(prompts[:8])) == 8
    assert figures["speed"] > 0
    assert figures["cpu"] >= 0
    assert prompts[8:] == [prompts[8]] * 5


def test_every_long_prompt_begins_differently() -> None:
    first, second = rows.long_prompt(2500), rows.long_prompt(2500)
    assert first[:6] != second[:6]
    assert len(first.split()) == 2501


async def test_a_server_that_fails_is_left_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.peers.turns.MEASURE_SECONDS", 0.01)
    asked: list[str] = []

    async def measure(name: str) -> Figures:
        asked.append(name)
        if name == "broken" and asked.count(name) == 2:
            raise FailedError("it said no")
        if name == "slow":
            await asyncio.Event().wait()
        return {"value": float(asked.count(name))}

    names = ["reconciler", "broken", "slow"]
    measured = await in_turns({name: name for name in names}, measure, 3)
    assert measured.turns == {"reconciler": [{"value": 2.0}, {"value": 3.0}, {"value": 4.0}]}
    assert measured.failed == {"broken": "it said no", "slow": "not measured within 0 s"}
    assert asked.count("broken") == 2
    assert asked.count("slow") == 1


async def test_the_order_of_servers_changes_from_turn_to_turn() -> None:
    asked: list[str] = []

    async def measure(name: str) -> Figures:
        asked.append(name)
        return {}

    await in_turns({name: name for name in "abc"}, measure, 5)
    orders = {tuple(asked[turn : turn + 3]) for turn in range(0, len(asked), 3)}
    assert len(asked) == 6 * 3
    assert len({order[0] for order in orders}) == 3
    assert len({order[-1] for order in orders}) == 3
    assert (await in_turns({}, measure, 5)).turns == {}


def test_the_table_has_a_ratio_or_a_reason_for_each_server() -> None:
    measured = Measured()
    for ours, theirs in ((3.0, 2.0), (4.0, 2.0), (5.0, 2.0)):
        measured.add("reconciler", {"speed": ours})
        measured.add("peer", {"speed": theirs})
    measured.add("other", {"speed": 1.0})
    measured.fail("other", "it ended")
    titles = {"reconciler": "reconciler 1", "peer": "peer 2", "other": "other 3"}
    row = Row("chat", "speed", "tokens/s", measured)
    assert row.results(titles) == [
        Result("chat", "peer 2", "tokens/s", 4.0, 2.0, 2.0, 1.5, 2.5, 3),
    ]
    assert row.values() == ["reconciler 4", "peer 2"]
    assert table([row, row], titles, {"absent": "not installed: no such package"}) == (
        "| measurement | reconciler 1 | peer 2 | other 3 |\n"
        "|---|---|---|---|\n"
        + 2 * "| chat, tokens/s | 4 | 2: **2.00** (1.50 to 2.50) | - |\n"
        + "\n- absent: not installed: no such package\n- other 3, chat: it ended"
    )


def test_there_is_no_ratio_to_nothing() -> None:
    measured = Measured()
    measured.add("reconciler", {"cpu": 1.0})
    measured.add("peer", {"cpu": 0.0})
    titles = {"reconciler": "reconciler 1", "peer": "peer 2"}
    assert Row("idle", "cpu", "s", measured).cells(titles) == ["1", "0"]


@pytest.mark.parametrize(
    ("value", "shown"), [(1494.6, "1,495"), (99.44, "99.4"), (0.0612, "0.0612")]
)
def test_values_are_shown_with_three_digits(value: float, shown: str) -> None:
    measured = Measured()
    measured.add("peer", {"memory": value})
    assert Row("resident", "memory", "MB", measured).values() == [f"peer {shown}"]


def test_without_reconciler_the_table_has_values_and_no_ratios() -> None:
    measured = Measured()
    measured.add("peer", {"speed": 2.0})
    measured.fail("reconciler", "it ended")
    row = Row("chat", "speed", "tokens/s", measured)
    assert row.cells({"reconciler": "reconciler 1", "peer": "peer 2"}) == ["-", "2"]
    assert row.results({"reconciler": "reconciler 1", "peer": "peer 2"}) == []


def test_what_cannot_be_installed_is_skipped_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it = install._run

    def pip_fails(*command: str) -> None:
        if "venv" not in command:
            run_it(sys.executable, "-S", "-c", "import sys; sys.exit('ERROR: no such package')")

    monkeypatch.setattr(install, "_run", pip_fails)
    for _ in range(2):
        found, skipped = run.programs(tmp_path)
        assert list(found) == ["reconciler", "mlx_lm.server"]
        reason = "not installed: ERROR: no such package"
        assert skipped == {"vllm-mlx": reason, "Rapid-MLX": reason}


def test_an_installation_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "INSTALL_SECONDS", 0.1)
    others = set(psutil.Process().children())  # such as a daemon that several tests use
    with pytest.raises(SkippedError, match="not installed within"):
        install._run(sys.executable, "-S", "-c", "import time; time.sleep(600)")
    assert set(psutil.Process().children()) <= others


def test_a_complete_environment_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[str, ...]] = []

    def pretend(*command: str) -> None:
        commands.append(command)
        (tmp_path / "x").mkdir(exist_ok=True)

    monkeypatch.setattr(install, "_run", pretend)
    assert install.installed("x", tmp_path) == install.installed("x", tmp_path) == tmp_path / "x"
    assert [command[2] for command in commands] == ["venv", "pip"]
    assert commands[1][-1].startswith("mlx")
    with pytest.raises(SkippedError, match="has no x"):
        install.installed_version(tmp_path / "x", "x")


CHILD = "import os, sys, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
PARENT = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-S", "-c", {CHILD!r}])
time.sleep(600)
"""


async def test_nothing_is_left_of_a_server_with_children_in_sessions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.0)
    async with processes.running([sys.executable, "-S", "-c", PARENT], tmp_path, {}) as tree:
        while not tree.log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        child = psutil.Process(int(tree.log.read_text()))
        assert tree.memory() > child.memory_info().rss / 2
        assert tree.ended() == ""
    assert psutil.wait_procs([child], timeout=10)[1] == []
    assert tree.ended().startswith("ended: ")


ANSWERS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"delta": {"content": "a"}}]}\\n\\n')
        self.wfile.write(b'data: {"choices": [], "usage": {"completion_tokens": 1}}\\n\\n')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def program(code: str) -> Program:
    def command(place: Place) -> list[str | Path]:
        return [sys.executable, "-c", code, str(place.port)]

    return Program("fake", "1", command)


async def test_two_instances_are_two_processes_that_answer(tmp_path: Path) -> None:
    async with program(ANSWERS).started(tmp_path, "m", 2) as two:
        assert len({server.tree.pid for server in two}) == len({server.url for server in two}) == 2
        assert {server.model for server in two} == {str(tmp_path / "m")}
        assert all(server.seconds > 0 for server in two)
        measured = await rows.idle(dict(zip("ab", two, strict=True)), 0.01)
        assert all(turns[0]["memory"] > 1 for turns in measured.turns.values())


async def test_a_server_that_cannot_start_is_skipped_with_its_last_line(tmp_path: Path) -> None:
    broken = program("raise SystemExit('no kernel for this machine')")
    whole = program(ANSWERS)
    async with run.all_started({"broken": broken, "whole": whole}, tmp_path, "m") as (good, bad):
        assert list(good) == ["whole"]
        assert bad == {"broken": "ended: no kernel for this machine"}


async def test_a_server_that_never_answers_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "START_SECONDS", 0.2)
    with pytest.raises(SkippedError, match="no answer within 0 s"):
        async with program("import time; time.sleep(600)").started(tmp_path, "m"):
            pass

"""Test the worker's routes, over a fake model."""

import asyncio
import contextlib
import threading
import tracemalloc
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout, web

from reconciler.core.protocol import Lease, Recall
from reconciler.worker.server import _app
from reconciler.worker.thread import MlxThread
from tests.worker.test_completions import Scripted


async def test_an_open_connection_keeps_no_body(tmp_path: Path) -> None:
    scripted: Any = Scripted("Hello")
    runner = web.AppRunner(_app(scripted, scripted, SimpleNamespace(), lambda: 0))  # type: ignore[arg-type]
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    padding = b" " * 5_000_000
    incoming, outgoing = await asyncio.open_unix_connection(tmp_path / "socket")
    tracemalloc.start()
    try:
        for message, status in ((b'[{"role": "user", "content": "a"}]', b"200"), (b"3", b"400")):
            before, _ = tracemalloc.get_traced_memory()
            size = b"Content-Length: %d" % (len(message) + len(padding) + 14)
            head = b"POST /sessions/1/chat/completions HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % size
            outgoing.writelines([head, b'{"messages": ', message, padding, b"}"])
            answer = await incoming.readuntil(b"\r\n\r\n")
            assert answer.split()[1] == status, answer
            length = answer.lower().partition(b"content-length: ")[2].split()[0]
            await incoming.readexactly(int(length))
            await outgoing.drain()
            for _ in range(1000):  # the handler may end after its response was sent
                after, _ = tracemalloc.get_traced_memory()
                if after - before < len(padding) / 2:
                    break
                await asyncio.sleep(0.01)
            assert after - before < len(padding) / 2
    finally:
        tracemalloc.stop()
        outgoing.close()
        await runner.cleanup()


async def test_recalled_memory_is_released_even_if_the_client_disconnects() -> None:
    mlx = MlxThread()
    recalled: Future[Recall] = Future()
    model: Any = SimpleNamespace(recall=recalled.set_result, kept_bytes=lambda: 0)
    app = _app(model, mlx, SimpleNamespace(), lambda: 0)  # type: ignore[arg-type]
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with ClientSession(timeout=ClientTimeout(0.1)) as client:
        with contextlib.suppress(TimeoutError):
            body = msgspec.json.encode(Recall({"1": Lease(7, 100)}))
            await client.post(f"http://{host}:{port}/leases", data=body)
    await runner.cleanup()  # no handler is left
    threading.Thread(target=mlx.run, daemon=True).start()
    command = await asyncio.wait_for(asyncio.wrap_future(recalled), 10)
    assert command == Recall({"1": Lease(7, 100)})

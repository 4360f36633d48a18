"""The worker's routes, over a model that is none."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout, web

from reconciler.core.protocol import Lease, Recall
from reconciler.worker.server import _app
from reconciler.worker.thread import MlxThread


async def test_memory_is_given_back_though_who_asked_did_not_wait() -> None:
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

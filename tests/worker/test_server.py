"""The worker's routes, over a model that is none."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from reconciler.worker.server import _app
from reconciler.worker.thread import MlxThread


async def test_memory_is_given_back_though_who_asked_did_not_wait() -> None:
    mlx = MlxThread()
    released: Future[None] = Future()
    model: Any = SimpleNamespace(release=lambda: released.set_result(None))
    app = _app(model, mlx, SimpleNamespace(), lambda: 0)  # type: ignore[arg-type]
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with ClientSession(timeout=ClientTimeout(0.1)) as client:
        with contextlib.suppress(TimeoutError):
            await client.post(f"http://{host}:{port}/release")
    await runner.cleanup()  # no handler is left
    threading.Thread(target=mlx.run, daemon=True).start()
    await asyncio.wait_for(asyncio.wrap_future(released), 10)

"""A worker process, as those who ask it see its end."""

import os
import signal
from pathlib import Path

import pytest

from reconciler.core.errors import Cause, LoadError
from reconciler.engine import sockets
from reconciler.engine.process import WorkerProcess


async def test_who_asks_a_worker_after_others_found_it_dead_is_told_that_it_died(
    tmp_path: Path,
) -> None:
    directory = sockets.prepare(tmp_path)
    worker = await WorkerProcess.start(directory, "off")
    await worker.ready()
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(2):  # the first finds out, and closes what the second would use
        with pytest.raises(LoadError, match="killed from outside by SIGKILL") as raised:
            await worker.ask("DELETE", "sessions/1", None, type(None))
        assert raised.value.problem.cause is Cause.WORKER_KILLED
    sockets.remove(directory)

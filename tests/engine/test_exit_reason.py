"""Reason of a worker's exit."""

import signal
from pathlib import Path

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.protocol import GENERATION_DIED
from reconciler.engine import exit_reason, sockets
from reconciler.engine import pool as module
from reconciler.engine.pool import Pool


@pytest.mark.parametrize(
    ("code", "last", "reason", "message"),
    [
        (
            -signal.SIGKILL,
            "loading",
            Reason.WORKER_KILLED,
            "the worker process 7 was killed from outside by SIGKILL; the kernel does that",
        ),
        (
            -signal.SIGHUP,
            None,
            Reason.WORKER_KILLED,
            "the worker process 7 was killed from outside by SIGHUP",
        ),
        (
            -signal.SIGBUS,
            "a word",
            Reason.WORKER_DIED,
            "the worker process 7 crashed (SIGBUS): a word",
        ),
        (-63, None, Reason.WORKER_KILLED, "the worker process 7 was killed from outside by "),
        (
            GENERATION_DIED,
            "KeyboardInterrupt",
            Reason.GENERATION_DIED,
            "the generation thread ended, and the worker process 7 with it: KeyboardInterrupt",
        ),
        (
            1,
            "No module named 'mlx'",
            Reason.WORKER_DIED,
            "the worker process 7 ended with exit code 1: No module named 'mlx'",
        ),
        (0, "a word", Reason.WORKER_DIED, "the worker process 7 ended"),
        (None, "a word", Reason.WORKER_DIED, "the worker process 7 ended"),
    ],
)
def test_the_reason_of_an_exit(
    code: int | None, last: str | None, reason: Reason, message: str
) -> None:
    problem = exit_reason.of_exit(7, code, last)
    assert (problem.reason, problem.permanent) == (reason, False)
    assert problem.message.startswith(message)


async def test_a_worker_that_never_becomes_ready_is_ended_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.0)
    directory = sockets.prepare(tmp_path)
    pool = Pool(directory)
    with pytest.raises(LoadError, match="hung: it did not start within 0 s") as raised:
        await pool.machine()
    assert raised.value.problem.reason is Reason.WORKER_HUNG
    await pool.close()
    sockets.remove(directory)

"""Monitors a worker until it ends, and kills it if it hangs.

Polling a worker's progress costs it nothing. A worker that has been idle for most of a probe
interval must also generate a token: one that answers polls may still be unable to generate.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from reconciler.core.errors import Problem
from reconciler.core.liveness import LOOKS, ProbeState, hung, look, probe_due
from reconciler.core.protocol import Pulse
from reconciler.engine import exit_reason
from reconciler.engine.process import KILL_SECONDS, WorkerProcess

log = structlog.get_logger()


async def watch(worker: WorkerProcess, interval: float, on_pulse: Callable[[Pulse], None]) -> None:
    """Return when the worker has ended, by itself or because it hung; see `worker.died()`.

    `interval` is the probe interval in seconds; `on_pulse` is called with each pulse.
    """
    ended = asyncio.create_task(worker.wait())
    looking = asyncio.create_task(_look_until_hung(worker, interval, on_pulse))
    try:
        await asyncio.wait({ended, looking}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            try:
                problem = looking.result()
            except Exception:
                log.exception("worker is no longer monitored", pid=worker.pid)
                await ended
            else:
                worker.kill(problem)
                await asyncio.wait({ended}, timeout=KILL_SECONDS)
    finally:
        ended.cancel()
        looking.cancel()


async def _look_until_hung(
    worker: WorkerProcess, interval: float, on_pulse: Callable[[Pulse], None]
) -> Problem:
    """Poll a worker several times per interval; returns its problem once it hangs."""
    pause = interval / LOOKS
    watched = ProbeState(time.monotonic())
    probe: asyncio.Task[str | None] | None = None
    turn = 0
    try:
        while True:
            pulse, _ = await asyncio.gather(worker.pulse(pause), asyncio.sleep(pause))
            if pulse is not None:
                on_pulse(pulse)
                if probe is not None and not probe.done():
                    pulse = replace(pulse, busy=True)
            watched = look(watched, pulse, time.monotonic(), interval)
            if (words := hung(watched, pulse, interval)) is not None:
                return exit_reason.of_hang(worker.pid, words)
            if probe is not None and probe.done():
                if (failure := probe.result()) is not None:
                    return exit_reason.of_probe(worker.pid, failure)
                probe = None
            if probe is None and pulse is not None and probe_due(watched, interval):
                sessions = sorted(pulse.usage)
                if sessions:
                    probe = asyncio.create_task(worker.probe(sessions[turn % len(sessions)]))
                    turn += 1
    finally:
        if probe is not None:
            probe.cancel()

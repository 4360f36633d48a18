"""Facts about the machine, reported by the first worker that starts."""

from collections.abc import Callable
from dataclasses import replace

import structlog

from reconciler.controller.actions import Engine
from reconciler.controller.clock import Clock, sleep
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Machine, Wired
from reconciler.core.memory import MemoryPolicy

log = structlog.get_logger()

ENGINE_RETRY_SECONDS = 5.0
"""Interval between attempts to start the first worker."""


async def learn(
    engine: Engine,
    policy: MemoryPolicy,
    clock: Clock,
    note: Callable[[Machine | Problem], None],
) -> Machine:
    """Return the facts about the machine, with the memory budget that `policy` allows.

    Retries for ever; `note` is called with the problem while no worker can be started, then with
    the facts.
    """
    failed = False
    while True:
        try:
            machine = await engine.machine()
        except LoadError as error:
            message = f"no worker can be started: {error.problem.message}"
            if not failed:
                log.error("no worker can be started", reason=error.problem.message)
            failed = True
            note(Problem(Reason.ENGINE_UNAVAILABLE, message, permanent=False))
            await sleep(clock, ENGINE_RETRY_SECONDS)
        else:
            offered = machine.memory_budget
            budget = policy.budget.of(offered)
            if budget > offered:
                log.warning("the memory budget exceeds what the machine offers", offered=offered)
            machine = replace(machine, memory_budget=budget)
            log.info("mlx is ready", device=machine.device, budget=budget)
            _log_wired(machine.wired)
            note(machine)
            return machine


def _log_wired(wired: Wired) -> None:
    """Log the wired limit, as a warning if it is not in force."""
    if wired.problem is not None:
        log.warning("memory is not wired", wired_limit=wired.policy, reason=wired.problem)
    elif wired.limit_bytes:
        log.info("memory is wired", wired_limit=wired.policy, bytes=wired.limit_bytes)

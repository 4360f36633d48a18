"""The facts of the machine, from the first worker that can be started."""

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
"""Between attempts to start the first worker."""


async def learn(
    engine: Engine,
    policy: MemoryPolicy,
    clock: Clock,
    note: Callable[[Machine | Problem], None],
) -> Machine:
    """The facts of the machine, with the budget that `policy` allows of its memory.

    Tries for ever; `note` is called with what is known so far: why no worker can be started, then
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
                log.warning("budget is above what the machine offers", offered=offered)
            machine = replace(machine, memory_budget=budget)
            log.info("mlx is ready", device=machine.device, budget=budget)
            _log_wired(machine.wired)
            note(machine)
            return machine


def _log_wired(wired: Wired) -> None:
    """A limit that is not in force must not go unnoticed."""
    if wired.problem is not None:
        log.warning("memory is not wired", wired_limit=wired.policy, reason=wired.problem)
    elif wired.limit_bytes:
        log.info("memory is wired", wired_limit=wired.policy, bytes=wired.limit_bytes)

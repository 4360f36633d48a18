"""Problems derived from the exit of a worker process."""

import signal

from reconciler.core.errors import Problem, Reason
from reconciler.core.protocol import GENERATION_DIED

FAULTS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""Signals that a process causes itself."""


def of_exit(pid: int, code: int | None, last: str | None) -> Problem:
    """Problem of a worker that exited with `code`; as in asyncio, a negative code is a signal.

    `last` is the last line that it logged.
    """
    worker = f"the worker process {pid}"
    detail = f": {last}" if last and code else ""
    if code is not None and code < 0:
        name = _name(-code)
        if -code in FAULTS:
            return _problem(Reason.WORKER_DIED, f"{worker} crashed ({name}){detail}")
        why = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
        return _problem(Reason.WORKER_KILLED, f"{worker} was killed from outside by {name}{why}")
    if code == GENERATION_DIED:
        words = f"the generation thread ended, and {worker} with it{detail}"
        return _problem(Reason.GENERATION_DIED, words)
    how = f" with exit code {code}" if code else ""
    return _problem(Reason.WORKER_DIED, f"{worker} ended{how}{detail}")


def of_hang(pid: int, words: str) -> Problem:
    """Problem of a worker that was killed because it hung; `words` describes the hang."""
    return _problem(Reason.WORKER_HUNG, f"the worker process {pid} hung: {words}")


def of_probe(pid: int, words: str) -> Problem:
    """Problem of a worker that failed to generate a token."""
    return _problem(Reason.GENERATION_DIED, f"the worker process {pid} cannot generate: {words}")


def _problem(reason: Reason, message: str) -> Problem:
    return Problem(reason, message, permanent=False)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"

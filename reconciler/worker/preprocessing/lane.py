"""A queue of jobs with one preprocessing process, and the thread that talks to it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from reconciler.worker.preprocessing.messages import (
    Bind,
    Failed,
    Learn,
    Refused,
    Reply,
    Request,
    Setup,
)
from reconciler.worker.preprocessing.process import Process, ProcessEndedError, UnansweredError

T = TypeVar("T")

SETUP_SECONDS = 60.0
"""Time limit to set up a tokenizer, which takes a second for the largest."""

LEARN_SECONDS = 30.0
"""Time limit to learn the chat templates' variables; the renderings have a shorter limit."""

SLOW_SECONDS = 1.0
"""Duration from which a running job counts as slow."""

RETRY_SECONDS = 60.0
"""Delay before a chat template that ended a process is tried again."""


@dataclass
class Facts:
    """Facts to send to each new process, as far as known."""

    setup: Setup | None = None
    bind: Bind | None = None
    hopeless: str = ""
    """Error that ended the process while it learned the chat templates; no chat can be prepared."""
    retry_at: float = 0.0
    """Time of the next attempt, on the monotonic clock."""


class Lane:
    """Runs one job at a time. Methods are for its own thread unless marked thread-safe."""

    def __init__(self, facts: Facts, lingers: float | None = None, nice: int = 0) -> None:
        """`lingers`: seconds after which an idle process is ended; None: never.

        `nice`: niceness of its process relative to the worker's.
        """
        self._facts, self._lingers, self._nice = facts, lingers, nice
        self._process: Process | None = None
        self._known: list[Request] = []
        self._learned = False
        self._timer: threading.Timer | None = None
        self._waiting = 0
        self._waiting_bytes = 0
        self._busy_since: float | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "preprocessing")

    @property
    def waiting(self) -> int:
        """Number of unfinished jobs. Thread-safe."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the bodies of unfinished jobs. Thread-safe."""
        return self._waiting_bytes

    @property
    def slow(self) -> bool:
        """True if its job has run so long that new jobs should go elsewhere. Thread-safe."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > SLOW_SECONDS

    def submit(self, job: Callable[[], T], size: int = 0) -> "Future[T]":
        """Queue a job that holds a body of `size` bytes. Thread-safe."""
        with self._lock:
            self._waiting += 1
            self._waiting_bytes += size
        future = self._thread.submit(self._timed, job)
        future.add_done_callback(lambda _: self._finish(size))
        return future

    def _timed(self, job: Callable[[], T]) -> T:
        self._busy_since = time.monotonic()
        try:
            return job()
        finally:
            self._busy_since = None

    def _finish(self, size: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._waiting_bytes -= size

    def memory(self) -> int:
        """Resident memory of its process, in bytes. Thread-safe."""
        process = self._process
        return process.memory() if process is not None else 0

    def start(self) -> Process:
        """Return a live process, a new one if necessary. Raises `ProcessEndedError`."""
        if self._process is None or not self._process.alive:
            self.end()
            try:
                self._process = Process(self._nice)
            except OSError as error:
                words = f"its process cannot be started: {error.strerror}"
                raise UnansweredError(words) from None
        return self._process

    def end(self) -> None:
        """End the process if there is one."""
        process, self._process = self._process, None
        self._known, self._learned = [], False
        if process is not None:
            process.end()

    def ask(self, request: Request, seconds: float) -> Reply:
        """Send a request to a process that has the facts. Raises `ProcessEndedError`."""
        if self._timer is not None:
            self._timer.cancel()
        process = self.inform()
        busy = False
        try:
            reply = process.ask(request, seconds)
            busy = isinstance(reply, Refused | Failed) and reply.busy
            return reply
        finally:
            if busy or not process.alive or process.bloated:
                self.end()
            elif self._lingers is not None:
                self._linger(self._lingers)

    def learn(self) -> None:
        """Make the process learn the chat templates' variables. Raises `ProcessEndedError`."""
        self.inform()
        if self._learned:
            return
        facts = self._facts
        if facts.hopeless and time.monotonic() < facts.retry_at:
            raise ProcessEndedError(facts.hopeless)
        try:
            self.ask(Learn(), LEARN_SECONDS)
        except UnansweredError:
            raise
        except ProcessEndedError as error:
            facts.hopeless, facts.retry_at = str(error), time.monotonic() + RETRY_SECONDS
            raise
        facts.hopeless, self._learned = "", True

    def inform(self) -> Process:
        """Return a process that has received the facts. Raises `ProcessEndedError`."""
        process = self.start()
        for fact in (self._facts.setup, self._facts.bind):
            if fact is None or any(fact is known for known in self._known):
                continue
            reply = process.ask(fact, SETUP_SECONDS)
            if isinstance(reply, Failed):
                self.end()
                raise ProcessEndedError(reply.message)
            self._known.append(fact)
        return process

    def _linger(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, lambda: self._thread.submit(self._end_if_idle))
        self._timer.daemon = True
        self._timer.start()

    def _end_if_idle(self) -> None:
        if not self._waiting:
            self.end()

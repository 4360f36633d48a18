"""One preprocessing process at a time, and the thread that speaks to it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from reconciler.worker.preprocessing.messages import Bind, Failed, Learn, Reply, Request, Setup
from reconciler.worker.preprocessing.process import Process, ProcessEndedError, UnansweredError

T = TypeVar("T")

SETUP_SECONDS = 60.0
"""For taking a tokenizer, which takes a second for the largest."""

LEARN_SECONDS = 30.0
"""For learning what the chat templates take; the renderings end themselves before."""

SLOW_SECONDS = 1.0
"""A job that runs longer keeps others waiting."""

RETRY_SECONDS = 60.0
"""After which a chat template is tried again that ended a process."""


@dataclass
class Facts:
    """What each process has to know, as far as it is known yet."""

    setup: Setup | None = None
    bind: Bind | None = None
    hopeless: str = ""
    """Why no chat can be prepared: what learning the chat templates did to a process."""
    retry_at: float = 0.0
    """On the monotonic clock."""


class Lane:
    """Does one job after the other. What is not said to be thread-safe is for its own thread."""

    def __init__(self, facts: Facts, lingers: float | None = None, nice: int = 0) -> None:
        """`lingers`: seconds after which a process without work is ended; None: it stays.

        `nice`: by how much the priority of its process is lower than the worker's.
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
        """Jobs that are not done. Thread-safe."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the bodies of jobs that are not done. Thread-safe."""
        return self._waiting_bytes

    @property
    def slow(self) -> bool:
        """True if its job takes long, so that whoever comes next waits. Thread-safe."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > SLOW_SECONDS

    def submit(self, job: Callable[[], T], size: int = 0) -> "Future[T]":
        """Have the thread do a job that holds a body of `size` bytes. Thread-safe."""
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
        """Bytes that its process takes. Thread-safe."""
        process = self._process
        return process.memory() if process is not None else 0

    def start(self) -> Process:
        """A process that lives, a new one if there is none. Raises `ProcessEndedError`."""
        if self._process is None or not self._process.alive:
            self.end()
            try:
                self._process = Process(self._nice)
            except OSError as error:
                words = f"its process cannot be started: {error.strerror}"
                raise UnansweredError(words) from None
        return self._process

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        self._known, self._learned = [], False
        if process is not None:
            process.end()

    def ask(self, request: Request, seconds: float) -> Reply:
        """Ask a process that knows the facts. Raises `ProcessEndedError`."""
        if self._timer is not None:
            self._timer.cancel()
        process = self.inform()
        try:
            return process.ask(request, seconds)
        finally:
            if not process.alive or process.bloated:
                self.end()
            elif self._lingers is not None:
                self._linger(self._lingers)

    def learn(self) -> None:
        """Have the process know what the chat templates take. Raises `ProcessEndedError`."""
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
        """A process that knows the facts. Raises `ProcessEndedError`."""
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

"""Start, call and end one preprocessing process, from the worker's side.

Each request has a time and a memory limit. The process enforces its deadline itself, with an alarm.
This side only detects a process that is stopped past the deadline, and monitors its memory, which
macOS does not limit.
"""

import os
import select
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from typing import IO

import psutil

from reconciler.worker.preprocessing.messages import (
    HEADER,
    LONGEST_REPLY,
    MEMORY,
    Reply,
    Request,
    decode_reply,
    request_frame,
)

KEPT_MEMORY = 300_000_000
"""Memory, in bytes, that a process may keep after a request in addition to its initial memory. A
process that keeps more is replaced."""

LOOK_SECONDS = 0.05
"""Interval between checks of its memory."""

LATE_SECONDS = 5.0
"""Delay after the deadline before a process that the alarm did not end, such as a stopped one, is
killed."""


_running: "set[subprocess.Popen[bytes]]" = set()


class ProcessEndedError(Exception):
    """The process ended without an answer; the message gives the cause."""


class UnansweredError(ProcessEndedError):
    """The process ended or could not be started, for a cause unrelated to the request."""


def kill_all() -> None:
    """Kill all preprocessing processes before this process ends. Thread-safe."""
    for child in list(_running):
        child.kill()


class Process:
    """A preprocessing process. Used by one thread at a time."""

    def __init__(self, nice: int = 0) -> None:
        """`nice`: niceness of the process relative to the worker's."""
        module = "reconciler.worker.preprocessing"
        command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(nice)]
        pipe = subprocess.PIPE
        # Must not inherit the worker's stderr: the daemon detects the worker's end by its closing.
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        _running.add(self._child)
        assert self._child.stdin is not None  # noqa: S101  PIPE
        assert self._child.stdout is not None  # noqa: S101
        self._requests: IO[bytes] = self._child.stdin
        self._replies: IO[bytes] = self._child.stdout
        for pipe_end in (self._requests, self._replies):
            os.set_blocking(pipe_end.fileno(), False)
        self._end = weakref.finalize(self, _end, self._child)
        self._first_bytes = 0
        """Resident memory after its first reply."""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._child.poll() is None

    def memory(self) -> int:
        """Resident memory in bytes; 0 after its end."""
        try:
            return int(psutil.Process(self._child.pid).memory_info().rss)
        except psutil.Error:
            return 0

    @property
    def bloated(self) -> bool:
        """True if it still holds much of the memory that a request needed."""
        return self.memory() > self._first_bytes + KEPT_MEMORY

    def ask(self, request: Request, seconds: float) -> Reply:
        """Send a request; return the reply. Raises `ProcessEndedError` if a limit is exceeded."""
        deadline = time.monotonic() + seconds + LATE_SECONDS
        try:
            for part in request_frame(request, seconds):
                self._write(part, deadline)
            size, _, _ = HEADER.unpack(self._read(HEADER.size, deadline))
            if size > LONGEST_REPLY:
                self.end()
                raise ProcessEndedError(f"its reply of {size} bytes was too long")
            reply = decode_reply(self._read(size, deadline))
        except (BrokenPipeError, EOFError):
            raise self._ended(seconds) from None
        self._first_bytes = self._first_bytes or self.memory()
        return reply

    def _ended(self, seconds: float) -> ProcessEndedError:
        with suppress(subprocess.TimeoutExpired):  # its pipes are closed, so it is exiting
            self._child.wait(LATE_SECONDS)
        self.end()
        code = self._child.returncode
        if code == -signal.SIGALRM:
            return ProcessEndedError(f"it did not finish within {seconds:g} s")
        words = f"its process ended with exit code {code}"
        if code in (-signal.SIGKILL, -signal.SIGTERM):  # from outside, or out of memory
            return UnansweredError(words)
        return ProcessEndedError(words)

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._requests, select.POLLOUT, deadline)
            rest = rest[os.write(self._requests.fileno(), rest) :]

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._replies, select.POLLIN, deadline)
            piece = os.read(self._replies.fileno(), min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _wait(self, pipe: IO[bytes], event: int, deadline: float) -> None:
        """Wait until a pipe is ready. Raises `ProcessEndedError`."""
        poll = select.poll()
        poll.register(pipe.fileno(), event)
        while not poll.poll(LOOK_SECONDS * 1000):
            if self.memory() > self._first_bytes + MEMORY:
                self.end()
                raise ProcessEndedError(f"it needed more than {MEMORY / 1e9:g} GB of memory")
            if time.monotonic() > deadline:
                self.end()
                raise ProcessEndedError("its process does not answer")

    def end(self) -> None:
        """Kill the process; it has no state to save."""
        self._end()


def _end(child: "subprocess.Popen[bytes]") -> None:
    _running.discard(child)
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()

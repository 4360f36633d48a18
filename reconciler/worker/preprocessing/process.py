"""The worker's side of one preprocessing process: started, asked, ended.

A request has a deadline and may take so much memory. The process keeps the deadline itself, by an
alarm; here it is only watched for being stopped, and for its memory, which macOS does not limit.
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
"""Bytes that a process may have more after a request than at first; else it is replaced."""

LOOK_SECONDS = 0.05
"""Between looks at its memory."""

LATE_SECONDS = 5.0
"""After its deadline a process that the alarm did not end, such as a stopped one, is killed."""


_running: "set[subprocess.Popen[bytes]]" = set()


class ProcessEndedError(Exception):
    """The process ended instead of answering; the message says why."""


class UnansweredError(ProcessEndedError):
    """It ended, or was not started, for a reason that has nothing to do with the request."""


def kill_all() -> None:
    """Kill every process that this one has started: it is about to end itself. Thread-safe."""
    for child in list(_running):
        child.kill()


class Process:
    """A preprocessing process. Used by one thread at a time."""

    def __init__(self, nice: int = 0) -> None:
        """`nice`: by how much its priority is lower than the worker's."""
        module = "reconciler.worker.preprocessing"
        command = [sys.executable, "-P", "-m", module, str(os.getpid()), str(nice)]
        pipe = subprocess.PIPE
        # Not the worker's stderr: that ends when the worker has, by which the daemon notices it.
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        _running.add(self._child)
        assert self._child.stdin is not None  # noqa: S101  asked for
        assert self._child.stdout is not None  # noqa: S101
        self._requests: IO[bytes] = self._child.stdin
        self._replies: IO[bytes] = self._child.stdout
        for pipe_end in (self._requests, self._replies):
            os.set_blocking(pipe_end.fileno(), False)
        self._end = weakref.finalize(self, _end, self._child)
        self._first_bytes = 0
        """That it took after its first answer."""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """True if it has not ended."""
        return self._child.poll() is None

    def memory(self) -> int:
        """Bytes that it takes; 0 once it has ended."""
        try:
            return int(psutil.Process(self._child.pid).memory_info().rss)
        except psutil.Error:
            return 0

    @property
    def bloated(self) -> bool:
        """True if it keeps much of what a request took."""
        return self.memory() > self._first_bytes + KEPT_MEMORY

    def ask(self, request: Request, seconds: float) -> Reply:
        """The answer. Raises `ProcessEndedError` where it takes too long or too much memory."""
        deadline = time.monotonic() + seconds + LATE_SECONDS
        try:
            for part in request_frame(request, seconds):
                self._write(part, deadline)
            size, _, _ = HEADER.unpack(self._read(HEADER.size, deadline))
            if size > LONGEST_REPLY:
                self.end()
                raise ProcessEndedError(f"its answer of {size} bytes was too long")
            reply = decode_reply(self._read(size, deadline))
        except (BrokenPipeError, EOFError):
            raise self._ended(seconds) from None
        self._first_bytes = self._first_bytes or self.memory()
        return reply

    def _ended(self, seconds: float) -> ProcessEndedError:
        with suppress(subprocess.TimeoutExpired):  # its pipes are closed: it is about to end
            self._child.wait(LATE_SECONDS)
        self.end()
        code = self._child.returncode
        if code == -signal.SIGALRM:
            return ProcessEndedError(f"it did not finish within {seconds:g} s")
        words = f"its process ended with {code}"
        if code in (-signal.SIGKILL, -signal.SIGTERM):  # by somebody, or by a system out of memory
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
        """Kill it: it has nothing to save."""
        self._end()


def _end(child: "subprocess.Popen[bytes]") -> None:
    _running.discard(child)
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()

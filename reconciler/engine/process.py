"""One worker process: start it, call it over its socket, end it."""

import asyncio
import contextlib
import itertools
import math
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.protocol import (
    Hello,
    LoadWeights,
    Pulse,
    Reply,
    WeightsLoaded,
    WeightsRead,
    WorkerFailure,
)
from reconciler.engine import exit_reason
from reconciler.engine.log import Log
from reconciler.host import children
from reconciler.host.spawn import spawn

log = structlog.get_logger()
T = TypeVar("T")

END_SECONDS = 5.0
"""Time for a worker to end after its stdin has closed; then it is killed."""

PIECE_BYTES = 2**16
"""Bytes of a request body sent per step of the event loop: copying a large body takes milliseconds
and would stall other streams."""

KILL_SECONDS = 5.0
"""Time for a killed worker to exit; one that the kernel cannot end is then treated as dead."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Workers make no TLS connections; aiohttp would parse all certificates, twice, on import.
    "SSL_CERT_FILE": os.devnull,
}
"""Environment of every worker."""

TUNABLES = {
    # Blocks above 4 MB are returned to the system when freed; by default, glibc adapts and keeps up
    # to 64 MB.
    "glibc.malloc.mmap_threshold": "4194304",
}
"""glibc's tunables of every worker, unless the user has set them."""

_serial = itertools.count(1)

_LINE = msgspec.json.Decoder(WeightsRead | WeightsLoaded | WorkerFailure)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of a worker, started from that of the daemon."""
    return children.with_tunables(children.for_worker(environ) | ENVIRONMENT, TUNABLES)


def _failed(failure: WorkerFailure) -> LoadError:
    return LoadError(Problem(Reason.LOAD_FAILED, failure.message, failure.permanent))


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    whole = memoryview(body)
    for begin in range(0, len(body), PIECE_BYTES):
        yield whole[begin : begin + PIECE_BYTES]
        await asyncio.sleep(0)


class WorkerProcess:
    """A running worker. Its stdin is its lifeline: when the daemon dies, the kernel closes it."""

    def __init__(self, process: Process, exited: asyncio.Event, socket: Path) -> None:
        self._process = process
        self._exited = exited
        self._socket = socket
        self._killed_for: Problem | None = None
        self.log = Log(process.pid)
        self._reading = asyncio.create_task(self._read_stderr())
        connector = aiohttp.UnixConnector(str(socket), limit=0)
        # A load has no time limit; a dead worker closes the connection.
        timeout = aiohttp.ClientTimeout(total=None)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._replies: set[aiohttp.ClientResponse] = set()
        """Responses being read."""
        self.hello: Hello | None = None

    @classmethod
    async def start(
        cls, directory: Path, wired_limit: str, stall_budget: float = math.inf
    ) -> "WorkerProcess":
        """Start a worker with its socket in `directory`.

        `wired_limit` is `off`, `recommended` or a size: memory that is kept from being paged out.
        `stall_budget`: maximum gap in a stream while prompts are prefilled [s]; infinite: none.
        """
        socket = directory / f"{next(_serial)}.sock"
        process, exited, _ = await spawn(
            *children.python("reconciler.worker", wired_limit, str(stall_budget), str(socket)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is the daemon's to handle
            env=worker_environment(os.environ),
        )
        return cls(process, exited, socket)

    async def ready(self) -> Hello:
        """Wait until its imports are done. Raises `LoadError` if it exits before."""
        if self.hello is None:
            stdout = self._process.stdout
            line = await stdout.readline() if stdout is not None else b""
            if not line:
                await self._exited.wait()
                raise LoadError(self.died())
            self.hello = msgspec.json.decode(line, type=Hello)
        return self.hello

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True if it is not known to have exited and was not killed."""
        return self._process.returncode is None and self._killed_for is None

    async def wait(self) -> None:
        """Wait until it has exited, and kill the processes it left behind."""
        await self._exited.wait()
        # It leads its own process group; a child may be too busy to notice its exit.
        children.kill_group(self._process.pid)
        await asyncio.gather(self._reading, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, url: str, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._client.request(method, url, data=body) as reply:
            self._replies.add(reply)
            try:
                yield reply
            finally:
                self._replies.discard(reply)

    async def pulse(self, seconds: float) -> Pulse | None:
        """Query its progress; None if it does not answer in time."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._asked("GET", "http://worker/pulse") as reply,
            ):
                return msgspec.json.decode(await reply.read(), type=Pulse)
        except (aiohttp.ClientError, OSError, RuntimeError, msgspec.DecodeError):
            return None

    async def probe(self, session: str) -> str | None:
        """Have it generate a token, without a timeout; returns its error, if any."""
        try:
            async with self._asked("POST", f"http://worker/sessions/{session}/probe") as reply:
                content = await reply.read()
        except (aiohttp.ClientError, OSError, RuntimeError):
            return None  # it has exited or is about to, which is detected elsewhere
        if reply.status == 200:
            return None
        return msgspec.json.decode(content, type=WorkerFailure).message

    async def ask(self, method: str, path: str, body: Any, answer: type[T]) -> T:
        """Send a request. Raises `LoadError` with the worker's error, or if it died."""
        url = f"http://worker/{quote(path)}"
        try:
            async with self._asked(method, url, msgspec.json.encode(body)) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, OSError, RuntimeError):
            # The worker is dead, or unusable without its socket. RuntimeError is "Session is
            # closed", after another caller has detected the same.
            await self.end()
            raise LoadError(self.died()) from None
        if reply.status != 200:
            raise _failed(msgspec.json.decode(content, type=WorkerFailure))
        return msgspec.json.decode(content, type=answer)

    async def load_weights(
        self, command: LoadWeights, on_progress: Callable[[WeightsRead], None]
    ) -> WeightsLoaded:
        """Have it read a checkpoint, reporting to `on_progress`. Raises `LoadError`."""
        try:
            body = msgspec.json.encode(command)
            async with self._asked("POST", "http://worker/checkpoint", body) as reply:
                async for line in reply.content:
                    message = _LINE.decode(line)
                    if isinstance(message, WeightsLoaded):
                        return message
                    if isinstance(message, WorkerFailure):
                        raise _failed(message)
                    on_progress(message)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError):
            pass
        await self.end()  # its response was cut off
        raise LoadError(self.died())

    @contextlib.asynccontextmanager
    async def stream(self, path: str, body: bytes, headers: dict[str, str]) -> AsyncIterator[Reply]:
        """Send a request and stream the response. Raises `LoadError` if it cannot be sent."""
        url = f"http://worker/{quote(path)}"
        try:
            size = {"Content-Length": str(len(body))}
            reply = await self._client.post(url, data=_pieces(body), headers=headers | size)
        except (aiohttp.ClientError, OSError, RuntimeError):
            raise LoadError(self.died()) from None
        self._replies.add(reply)
        try:
            yield Reply(reply.status, reply.content_type, self._chunks(reply))
        finally:
            self._replies.discard(reply)
            reply.close()  # discards the unread rest

    async def _chunks(self, reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in reply.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError, RuntimeError):  # RuntimeError: "Connection closed."
            with contextlib.suppress(TimeoutError):  # its exit code is known only then
                async with asyncio.timeout(END_SECONDS):
                    await self.wait()
            raise LoadError(self.died()) from None

    def died(self) -> Problem:
        """Return the problem with which it exited or was killed."""
        if self._killed_for is not None:
            return self._killed_for
        return exit_reason.of_exit(self.pid, self._process.returncode, self.log.last)

    def kill(self, problem: Problem) -> None:
        """Kill it because of `problem`; a stopped process does not notice its lifeline."""
        if self._process.returncode is None:
            self._killed_for = problem
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def end(self, problem: Problem | None = None) -> None:
        """End it and free its socket and memory; memory only if the kernel can end it.

        Callers that read from it get an error; it is `problem`, if given.
        """
        if problem is not None and self.alive:
            self._killed_for = problem
        for reply in self._replies:
            if not reply.content.is_eof():  # otherwise aiohttp lets the reader wait for ever
                reply.content.set_exception(aiohttp.ClientConnectionError("the worker was ended"))
        await self._client.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.wait()
        except TimeoutError:
            self.kill(exit_reason.of_hang(self.pid, f"it did not end within {END_SECONDS:g} s"))
            try:
                async with asyncio.timeout(KILL_SECONDS):
                    await self.wait()
            except TimeoutError:
                log.error("worker does not exit", pid=self.pid, seconds=KILL_SECONDS)
        self._socket.unlink(missing_ok=True)

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None:
            try:
                line = await stderr.readline()
            except ValueError:  # exceeds asyncio's limit, which dropped it
                continue
            if not line:
                break
            text = line.decode(errors="replace").rstrip()
            self.log.write(text)
            log.debug("worker output", pid=self.pid, line=text)
        self.log.end()

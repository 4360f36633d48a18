"""The HTTP server: aiohttp's, with deadlines, a connection limit and the standard error format.

aiohttp answers malformed requests before any middleware sees them, as plain text that quotes the
request, and logs them with headers. A `Connection` answers them in the standard error format, and
logs only types and frames. It also closes connections that would otherwise stay open forever:

- one without a request, after `IDLE_SECONDS`;
- one whose headers stay incomplete, after `HEAD_SECONDS`;
- one whose client does not read the response, after `STALL_SECONDS` without progress.

`body` sets the deadline for a body.
"""

import asyncio
import socket
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong

from reconciler.api.connections import Connections
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError, of_http, refused
from reconciler.api.frames import frames

log = structlog.get_logger()

IDLE_SECONDS = 75.0
"""Longer than proxies keep idle connections to a server: 60 s by default in nginx."""

HEAD_SECONDS = 20.0

STALL_SECONDS = 60.0

FLUSH_SECONDS = 10.0
"""Deadline for reading the rest of a response, once its connection is to be closed."""

BACKLOG = 1024
"""Maximum number of connections that wait to be accepted."""

_UNAVAILABLE = web.HTTPServiceUnavailable.status_code
_BUSY = {
    "type": "unavailable",
    "message": "too many connections are open, and all are in use; try again",
    "code": "too_many_connections",
}


class Connection(web.RequestHandler):
    """One connection. Used on the event loop only."""

    def __init__(self, server: web.Server, connections: Connections) -> None:
        self._of_all = connections
        self._events = asyncio.get_running_loop()
        self._busy = False
        self._head: asyncio.TimerHandle | None = None
        """Closes the connection if the headers of a request stay incomplete."""
        self._stall: asyncio.TimerHandle | None = None
        super().__init__(
            server,
            loop=self._events,
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,  # `body` does, within its limits and off the event loop
        )

    def begin(self) -> None:
        """Mark the connection as busy with a request, even a malformed one."""
        self._busy = True
        self._cancel_head()
        self._of_all.begin(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._of_all.admit(self):
            super().connection_made(transport)
            return
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  as aiohttp does
        transport.write(_refusal())
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._of_all.forget(self)
        self._cancel_head()
        self._cancel_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data and not self._busy and self._head is None and self.transport is not None:
            self._head = self._events.call_later(HEAD_SECONDS, self._head_is_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            self._events.call_later(FLUSH_SECONDS, transport.abort)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, converting aiohttp's own errors to the standard format."""
        if isinstance(resp, web.HTTPException):
            failure = of_http(request, resp)
            resp = refused(request, failure)
        if request.writer.output_size > 0 and not resp.prepared:
            raise ConnectionError("another response was already started")
        finished = await super().finish_response(request, resp, start_time)
        self._busy = False
        self._of_all.end(self)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to a malformed request, or to one that no handler could answer."""
        del message  # quotes the request
        if isinstance(exc, HttpProcessingError):
            failure = _malformed(exc)
            log.debug("request is malformed", error=type(exc).__name__)
        else:
            failure = ApiError(status, "internal_error", "internal error", "internal_error")
            if exc is not None:
                self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("another response was already started")
        answer = refused(request, failure)
        answer.force_close()
        return answer

    def log_exception(self, *_args: Any, **more: Any) -> None:
        """Log the location of a failure, without aiohttp's message, which has headers."""
        error = more.get("exc_info")
        trace = frames(error) if isinstance(error, BaseException) else None
        log.error("connection failed", trace=trace)

    def log_debug(self, *_args: Any, **_more: Any) -> None:
        """Log nothing: these messages report clients that disconnected."""

    def _head_is_late(self) -> None:
        self._head = None
        if not self._busy:
            self.force_close()

    def _watch(self) -> None:
        if self.transport is not None:
            left = self.transport.get_write_buffer_size()
            self._stall = self._events.call_later(STALL_SECONDS, self._is_stalled, left)

    def _is_stalled(self, left: int) -> None:
        self._stall = None
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() >= left:
            self.transport.abort()
        else:
            self._watch()

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _malformed(error: HttpProcessingError) -> ApiError:
    if isinstance(error, LineTooLong):
        message = f"a line of the request is longer than {error.args[1]} bytes"
    elif isinstance(error, InvalidURLError):
        message = "the address in the request is malformed"
    else:  # the first line names the error; others quote the request
        message = f"the request is malformed: {error.message.partition(chr(10))[0].rstrip(':')}"
    return ApiError(400, "invalid_request", message, "invalid_http")


def _refusal() -> bytes:
    """Response to a connection above the limit."""
    body = encode({"error": _BUSY})
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def listen(
    runner: web.AppRunner, listener: socket.socket, connections: Connections
) -> asyncio.Server:
    """Serve the application of a runner that is set up, until the returned server is closed."""
    server = runner.server
    assert server is not None  # noqa: S101  it is set up
    make = server.request_factory

    def request(message: Any, payload: Any, protocol: Any, *more: Any) -> web.BaseRequest:
        protocol.begin()
        return make(message, payload, protocol, *more)

    server.request_factory = request
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(server, connections), sock=listener, backlog=BACKLOG
    )

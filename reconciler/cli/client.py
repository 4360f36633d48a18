"""HTTP client of the daemon, for commands."""

import asyncio
import functools
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click
from aiohttp.http_exceptions import HttpProcessingError
from click.core import ParameterSource
from yarl import URL

from reconciler.cli import sockets
from reconciler.cli.address import normalize
from reconciler.cli.printing import escaped
from reconciler.host import looks
from reconciler.host.kinds import read_at_most

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:1234"

MAX_TOKEN = 4096
"""Maximum length of a token."""

OTHER = "a server other than reconciler answers"

MAX_MESSAGE = 4000
"""Maximum characters of an error message that are shown."""

MAX_ANSWER = 64_000_000
"""Maximum length of an answer [bytes]."""

MAX_LINE = 4_000_000
"""Maximum length of a line of a stream [bytes]."""

SECONDS = 60.0
"""Deadline of a GET that does not wait for a change. Other requests may take any time."""

MISREAD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions of code that reads an answer of another form than the expected one."""

SILENCE_SECONDS = 40.0
"""Longest silence of a stream, on which the daemon sends something at least every 15 s."""

_NO_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)


class DaemonError(click.ClickException):
    """An error that the daemon reported, with its message and HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(DaemonError):
    """There is no such record, model or instance."""

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class NotInTimeError(click.ClickException):
    """A wait timed out."""

    exit_code = 5


class UnreachableError(click.ClickException):
    """The address is unreachable, or its server is not a reconciler daemon."""

    exit_code = 3

    def __init__(self, url: str, why: str = "nothing answers") -> None:
        super().__init__(
            f"{why} at {url}; start the daemon with `reconciler serve`, "
            "or give its address with --url or RECONCILER_URL"
        )


def misread(error: Exception) -> str:
    """Description of an answer that could not be read, with the exception and its place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
    return f"a server other than reconciler, or one of another version, answers ({place})"


class ConnectionLostError(UnreachableError):
    """A connection broke, or nothing was received in time; the request may have been served."""


@dataclass(frozen=True)
class ServerEvent:
    """A server-sent event."""

    type: str
    data: Any
    id: str | None


class Client:
    """JSON over HTTP. Raises `DaemonError` and `UnreachableError`."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, token_file: Path | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.token_file = token_file
        self.answered = False
        """True if the server has sent an answer."""
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """Send a GET request."""
        return await self._ask("GET", path, params=query)

    async def get_within(self, seconds: float, path: str, **query: str) -> Any:
        """Send a GET request. Raises `ConnectionLostError` if it takes longer."""
        return await self._ask("GET", path, seconds, params=query)

    async def post(self, path: str, body: Any) -> Any:
        """Send a POST request."""
        return await self._ask("POST", path, json=body)

    async def put(self, path: str, body: Any, **query: str) -> Any:
        """Send a PUT request."""
        return await self._ask("PUT", path, json=body, params=query)

    async def delete(self, path: str) -> Any:
        """Send a DELETE request."""
        return await self._ask("DELETE", path)

    def _address(self, path: str) -> URL:
        """URL of a path, which is sent as it is: `..` in a name must not lead to another route."""
        base = str(URL(self.url)).rstrip("/")
        return URL(base + path, encoded=True)

    async def _ask(self, method: str, path: str, patience: float | None = None, **more: Any) -> Any:
        if patience is None and method == "GET" and "wait" not in more["params"]:
            patience = SECONDS
        limit = asyncio.timeout(patience)
        try:
            async with limit, self._session.request(method, self._address(path), **more) as reply:
                return await self._answer(reply)
        except _NO_CONNECTION:
            raise UnreachableError(self.url) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            raise ConnectionLostError(self.url) from None
        except aiohttp.ClientError:
            raise UnreachableError(self.url, OTHER) from None
        except TimeoutError:
            if not limit.expired():  # the session's
                raise
            raise ConnectionLostError(self.url, silence(patience)) from None

    async def _answer(self, reply: aiohttp.ClientResponse) -> Any:
        self.answered = True
        data = bytearray()
        async for piece in reply.content.iter_any():
            data += piece
            if len(data) > MAX_ANSWER:
                why = f"an answer of more than {MAX_ANSWER} bytes came"
                raise UnreachableError(self.url, why)
        try:
            if reply.content_type != "application/json":
                raise ValueError(reply.content_type)
            body = json.loads(data)
            message = escaped(body["error"]["message"])[:MAX_MESSAGE] if reply.status >= 400 else ""
        except MISREAD:
            raise UnreachableError(self.url, OTHER) from None
        if reply.status >= 400:
            raise (
                NotFoundError(message)
                if reply.status == 404
                else DaemonError(reply.status, message)
            )
        return body

    async def events(
        self, method: str, path: str, body: Any = None, **query: str
    ) -> AsyncIterator[tuple[str, Any]]:
        """Type and data of each server-sent event, as it arrives."""
        async for event in self.stream(method, path, body, **query):
            if event is not None:
                yield event.type, event.data

    async def stream(
        self, method: str, path: str, body: Any = None, *, last: str | None = None, **query: str
    ) -> AsyncIterator[ServerEvent | None]:
        """Each server-sent event, as it arrives; the first item is None, once the stream begins.

        `last`: identifier of the event to resume after. Raises `ConnectionLostError` if nothing is
        received for `SILENCE_SECONDS`; a POST may take longer to begin.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        asking = self._session.request(
            method, self._address(path), json=body, params=query, headers=headers
        )
        try:
            async with asyncio.timeout(SILENCE_SECONDS if method == "GET" else None):
                reply = await asking
            async with reply:
                if reply.status >= 400 or reply.content_type != "text/event-stream":
                    await self._answer(reply)
                    raise UnreachableError(self.url, OTHER)
                self.answered = True
                yield None
                kind, id_ = "message", None
                while line := await _line(reply):
                    field, _, value = line.decode().rstrip("\r\n").partition(": ")
                    if field == "event":
                        kind = value
                    elif field == "id":
                        id_ = value
                    elif field == "data":
                        yield ServerEvent(
                            kind, value if value == "[DONE]" else json.loads(value), id_
                        )
        except _NO_CONNECTION:
            raise UnreachableError(self.url) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            raise ConnectionLostError(self.url, "the daemon closed the connection") from None
        except (aiohttp.ClientError, HttpProcessingError):
            raise UnreachableError(self.url, OTHER) from None
        except TimeoutError:
            raise ConnectionLostError(self.url, silence(SILENCE_SECONDS)) from None

    async def chat(self, model: str, messages: list[Any], **more: Any) -> AsyncIterator[Any]:
        """Stream a chat completion as OpenAI's deltas."""
        async for chunk in self.chunks(model, messages, **more):
            for choice in chunk["choices"]:
                yield choice["delta"]

    async def chunks(self, model: str, messages: list[Any], **more: Any) -> AsyncIterator[Any]:
        """Stream a chat completion as OpenAI's chunks."""
        body = {"model": model, "messages": messages, "stream": True} | more
        async for _, chunk in self.events("POST", "/v1/chat/completions", body):
            if chunk == "[DONE]":
                return
            if "error" in chunk:
                raise DaemonError(500, escaped(chunk["error"]["message"]))
            yield chunk


async def _line(reply: aiohttp.ClientResponse) -> bytes:
    """Next line of a stream; empty at its end. Raises `TimeoutError` if it is silent."""
    async with asyncio.timeout(SILENCE_SECONDS):
        return await reply.content.readline()


def silence(seconds: float | None) -> str:
    """The reason of a request that was given up after so many seconds."""
    return f"nothing was received for {seconds:g} s"


def asks(function: Callable[..., Awaitable[T]]) -> Callable[..., T]:
    """Turn a coroutine function, whose first argument is a client, into a command.

    Adds the options for the daemon's address and token.
    """

    @click.option(
        "--url",
        envvar="RECONCILER_URL",
        show_envvar=True,
        default=DEFAULT_URL,
        help="Address of the daemon: HOST:PORT or a URL; the path of an API is removed.",
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="RECONCILER_TOKEN_FILE",
        show_envvar=True,
        help="File with the token that the daemon requires.",
    )
    @functools.wraps(function)
    def command(*, url: str, token_file: Path | None, **options: Any) -> T:
        context = click.get_current_context()
        if context.get_parameter_source("url") is not ParameterSource.COMMANDLINE:
            url = context.obj or url  # `reconciler --url URL COMMAND`
        try:
            url = normalize(url)
        except ValueError as error:
            raise click.UsageError(f"--url: {error}") from None
        try:
            return looks.run(_ask(function, url, token_file, options))
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            raise click.UsageError(f"{error.object!r} is not valid UTF-8") from None

    return command


def bearer(token_file: Path | None) -> dict[str, str]:
    """The Authorization header for a token file. Raises `click.ClickException`."""
    return {} if token_file is None else {"Authorization": f"Bearer {read_token(token_file)}"}


def read_token(token_file: Path) -> str:
    """Read a token from a file. Raises `click.ClickException`."""
    try:
        token = read_at_most(token_file, MAX_TOKEN).decode("utf-8").strip()
    except OSError as error:
        message = f"cannot read token file {token_file}: {error.strerror}"
        raise click.ClickException(message) from None
    except UnicodeDecodeError:
        token = ""
    if not 0 < len(token) <= MAX_TOKEN or not token.isprintable():
        message = f"token file {token_file} must contain one line of text, the token"
        raise click.ClickException(message)
    return token


async def _ask(
    function: Callable[..., Awaitable[T]],
    url: str,
    token_file: Path | None,
    options: dict[str, Any],
) -> T:
    # Loads and chats have no deadline; if the daemon dies, the connection closes.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(socket_factory=sockets.probed)
    async with aiohttp.ClientSession(
        headers=bearer(token_file),
        timeout=timeout,
        connector=connector,
        read_bufsize=MAX_LINE // 2,
    ) as session:
        client = Client(url, session, token_file)
        try:
            return await function(client, **options)
        except UnicodeEncodeError:  # a name on the command line that is not UTF-8
            raise
        except MISREAD as error:
            if not client.answered:
                raise
            raise UnreachableError(url, misread(error)) from None

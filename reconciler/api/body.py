"""Request bodies: received within limits of size and time, decompressed, parsed and validated.

Small bodies are parsed at once. Large ones are parsed on a separate thread, so that the event loop
keeps serving other requests. There is one such thread, so that large bodies do not use all cores.
"""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from reconciler.api.errors import ApiError, of_mistake
from reconciler.core.schema import SchemaName, check

T = TypeVar("T")

MAX_BYTES = 1_000_000

SMALL_BYTES = 10_000
"""A body of this size is parsed within 2 ms."""

PATIENCE_SECONDS = 20.0
"""Deadline for receiving a body, in addition to the time that it takes at the minimum rate."""

LEAST_RATE = 10_000
"""Minimum rate, in bytes per second."""

_GZIP, _DEFLATE, _BARE_DEFLATE = 31, 15, -15
"""Values of zlib's `wbits` by format. Some clients send deflate without its header."""

_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _DEFLATE}

_parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bodies")


async def read(request: web.Request, schema: SchemaName) -> dict[str, Any]:
    """Read the body as an object valid for `schema`. Raises `ApiError` with the first violation."""
    data = await receive(request, MAX_BYTES)
    return await parsed(data, lambda body: _checked(body, schema))


async def parsed(data: bytes, parse: Callable[[bytes], T]) -> T:
    """Parse a body with `parse`, off the event loop if the body is large."""
    if len(data) <= SMALL_BYTES:
        return parse(data)
    return await asyncio.get_running_loop().run_in_executor(_parser, parse, data)


async def receive(request: web.Request, limit: int) -> bytes:
    """Receive and decompress the body. `limit`: maximum bytes, before and after decompression.

    Raises `ApiError` if the body is longer, arrives too slowly, is truncated, or has an unsupported
    encoding.
    """
    encoding = _encoding(request)
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    data = await _received(request, limit)
    if encoding is None:
        return data
    return await parsed(data, lambda packed: _unpacked(packed, encoding, limit))


async def _received(request: web.Request, limit: int) -> bytes:
    loop = asyncio.get_running_loop()
    body, begin = BytesIO(), loop.time()  # getvalue() does not copy
    try:
        async with asyncio.timeout(PATIENCE_SECONDS) as deadline:
            async for chunk in request.content.iter_any():
                body.write(chunk)
                if body.tell() > limit:
                    raise _too_large(limit)
                deadline.reschedule(begin + PATIENCE_SECONDS + body.tell() / LEAST_RATE)
    except TimeoutError:
        message = f"the body did not arrive in time: {body.tell()} bytes were received"
        raise ApiError(408, "invalid_request", message, "request_timeout") from None
    except (web.RequestPayloadError, ValueError):  # malformed chunk or truncated body
        message = "the body is truncated, or its chunks are malformed"
        raise ApiError(400, "invalid_request", message, "invalid_http") from None
    return body.getvalue()


def _too_large(limit: int) -> ApiError:
    status = web.HTTPRequestEntityTooLarge.status_code
    message = f"the body is longer than {limit} bytes"
    return ApiError(status, "invalid_request", message, "invalid_request")


def _encoding(request: web.Request) -> str | None:
    """Compression of the body; None if it is not compressed."""
    sent = ",".join(request.headers.getall("Content-Encoding", [])).split(",")
    named = [name for name in (part.strip().lower() for part in sent) if name not in _PLAIN]
    if not named:
        return None
    if len(named) > 1 or named[0] not in _WINDOWS:
        words = f"Content-Encoding {', '.join(named)} is not supported; use gzip or deflate"
        raise ApiError(415, "invalid_request", words, "unsupported_encoding")
    return named[0]


_PLAIN = ("", "identity")


def _unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a body. Raises `ApiError` if it is longer than `limit`, or corrupt."""
    if not data:
        return data
    window = _WINDOWS[encoding]
    if window == _DEFLATE and data[0] & 0x0F != zlib.DEFLATED:
        window = _BARE_DEFLATE
    unpacker = zlib.decompressobj(window)
    try:
        body = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise _broken(encoding) from None
    if len(body) > limit:
        raise _too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise _broken(encoding)
    return body


def _broken(encoding: str) -> ApiError:
    message = f"the body is not valid {encoding}, which its Content-Encoding declares"
    return ApiError(400, "invalid_request", message, "invalid_encoding")


def _checked(data: bytes, schema: SchemaName) -> dict[str, Any]:
    try:
        # Stricter than the json module: no NaN, no lone surrogates.
        body = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_json") from None
    mistakes = check(schema, body)
    if mistakes:
        raise of_mistake(mistakes[0])
    checked: dict[str, Any] = body
    return checked

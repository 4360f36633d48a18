"""Compressed and large request bodies, and encoding of any response."""

import asyncio
import gzip
import threading
import zlib
from typing import Any

import msgspec
import pytest

from reconciler.api import body
from reconciler.api.encode import encode
from reconciler.api.errors import MAX_MESSAGE, MAX_PARAM, ApiError

TEXT = b'{"model": "m"}'


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare(TEXT)),
        ("gzip", b""),
    ],
    ids=["gzip", "x-gzip", "deflate", "bare deflate", "empty"],
)
def test_a_compressed_body_is_unpacked(encoding: str, packed: bytes) -> None:
    assert body._unpacked(packed, encoding, 100) == (TEXT if packed else b"")


@pytest.mark.parametrize(
    ("encoding", "packed", "code", "status"),
    [
        ("gzip", b"\x99garbage", "invalid_encoding", 400),
        ("deflate", b"\x99garbage", "invalid_encoding", 400),
        ("gzip", gzip.compress(TEXT)[:-12], "invalid_encoding", 400),
        ("gzip", gzip.compress(TEXT) + b"more", "invalid_encoding", 400),
        ("gzip", gzip.compress(b" " * 101), "invalid_request", 413),
    ],
    ids=["gzip", "deflate", "cut", "more", "a byte too long"],
)
def test_a_broken_or_too_long_body_is_refused(
    encoding: str, packed: bytes, code: str, status: int
) -> None:
    with pytest.raises(ApiError) as raised:
        body._unpacked(packed, encoding, 100)
    assert (raised.value.body["code"], raised.value.status) == (code, status)


def test_a_decompression_bomb_is_refused() -> None:
    with pytest.raises(ApiError) as raised:
        body._unpacked(gzip.compress(b" " * 300_000_000, 1), "gzip", 100)
    assert (raised.value.body["code"], raised.value.status) == ("invalid_request", 413)


async def test_a_large_body_is_parsed_off_the_event_loop() -> None:
    threads: list[threading.Thread] = []

    def parse(data: bytes) -> int:
        threads.append(threading.current_thread())
        return len(data)

    for size in (body.SMALL_BYTES, body.SMALL_BYTES + 1):
        assert await body.parsed(bytes(size), parse) == size
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_the_event_loop_runs_while_a_large_body_is_parsed() -> None:
    others = asyncio.Event()
    loop = asyncio.get_running_loop()

    def parse(_data: bytes) -> bool:
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(others.wait(), 30), loop).result()
        return True

    parsing = asyncio.create_task(body.parsed(bytes(body.SMALL_BYTES + 1), parse))
    await asyncio.sleep(0)
    others.set()
    assert await parsing


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\ud83d\ude00"])
def test_lone_surrogates_do_not_fail_a_response(text: str) -> None:
    value: Any = {"error": {"message": text, "list": [text, (text,)], text: None}}
    whole = msgspec.json.decode(encode(value))["error"]
    assert whole["message"] in ("\ufffd", "a\ufffdb", "\U0001f600")
    assert whole["list"] == [whole["message"], [whole["message"]]]


def test_error_fields_are_truncated() -> None:
    error = ApiError(400, "invalid_request", "m" * 10**6, "code", "p" * 10**6)
    assert len(error.body["message"]) == MAX_MESSAGE
    assert len(error.body["param"]) == MAX_PARAM

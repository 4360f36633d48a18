"""Decoding of the keys that determine a request's route."""

import tracemalloc
from collections.abc import Callable

import pytest

from reconciler.api import embeddings, forward
from reconciler.api.ollama import chats, embed

READ: dict[str, Callable[[bytes], forward.Routed]] = {
    "openai": forward.routed,
    "embeddings": embeddings._routed,
    "ollama": chats._routed,
    "ollama embeddings": embed._routed,
}


@pytest.mark.parametrize(
    ("dialect", "streams"),
    [
        ("openai", {b"true"}),
        ("embeddings", set()),
        ("ollama", {b"true", b"null", b"1", b'"false"', b"[]"}),
        ("ollama embeddings", set()),
    ],
)
@pytest.mark.parametrize("value", [b"true", b"false", b"null", b"1", b'"false"', b"[]"])
def test_a_stream_is_started_early_if_the_request_asks_for_one(
    dialect: str, streams: set[bytes], value: bytes
) -> None:
    body = b'{"stream": \n %s\t, "model": "m"}' % value
    assert READ[dialect](body).stream == (value in streams)


@pytest.mark.parametrize("dialect", READ)
@pytest.mark.parametrize("key", [b"stream", b"messages", b"prompt", b"input", b"x"])
def test_no_key_of_a_request_makes_millions_of_objects(dialect: str, key: bytes) -> None:
    """A list of 5 million lists in `stream` stopped all requests to the daemon for seconds."""
    body = b'{"model": "m", "%s": [%s1]}' % (key, b"[]," * 100_000)
    tracemalloc.start()
    try:
        READ[dialect](body)
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()

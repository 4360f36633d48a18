"""A daemon that stops: running requests finish, new ones are refused, and it always ends."""

import json
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.support import Daemon, Home

MODEL = "tiny/llama"
BODY = {"model": MODEL, "prompt": [7], "temperature": 0, "stream": True}


@pytest.fixture
def daemon(home: Home) -> Iterator[Daemon]:
    with Daemon(home) as daemon:
        # Small steps and a long context: a response outlasts any test.
        daemon.load({"model": MODEL, "context_length": 30_000, "eval_batch_size": 8})
        yield daemon


def answering(daemon: Daemon, tokens: int) -> HTTPResponse:
    """A stream that has begun."""
    data = json.dumps(BODY | {"max_tokens": tokens}).encode()
    stream: HTTPResponse = urllib.request.urlopen(daemon.url + "/v1/completions", data)
    while not (line := stream.readline()).startswith(b"data: "):
        pass
    assert b"error" not in line, (line, daemon.log()[-3000:])
    return stream


def last(stream: HTTPResponse) -> Any:
    """Last events of a stream."""
    return [line.removeprefix(b"data: ") for line in stream.read().split(b"\n\n") if line][-2:]


def test_running_requests_finish_while_new_ones_are_refused(daemon: Daemon) -> None:
    with ThreadPoolExecutor() as pool, answering(daemon, 50) as stream:
        (worker,) = daemon.workers()
        worker.suspend()  # so that the response lasts as long as the checks
        daemon.process.send_signal(signal.SIGTERM)
        daemon.until(lambda: daemon.request("GET", "/health")[0] == 503)
        assert daemon.request("GET", f"/api/v1/ready/{MODEL}")[0] == 503
        for path in ("/v1/completions", "/api/v1/models/load", "/api/v1/models/unload"):
            status, answer = daemon.request("POST", path, BODY)
            assert (status, answer["error"]["code"]) == (503, "stopping"), path
        worker.resume()
        end, done = pool.submit(last, stream).result()
    assert json.loads(end)["choices"][0]["finish_reason"] == "length"
    assert done == b"[DONE]"
    assert daemon._reap() == 0


@pytest.mark.parametrize(
    "second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_second_signal_cancels_running_requests_with_the_reason(
    daemon: Daemon, second: int
) -> None:
    with answering(daemon, 29_000) as stream, ThreadPoolExecutor() as pool:
        reading = pool.submit(last, stream)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.until(lambda: daemon.request("GET", "/health")[0] == 503)
        workers = daemon.workers()
        assert daemon.stop(second) == 0
        error = reading.result()[-1]
        assert b'"stopping"' in error, (error, daemon.log()[-3000:])
    assert not any(worker.is_running() for worker in workers)

"""Streams go on while prompts of other requests are read, with a real daemon and real MLX."""

import json
from typing import Any

from reconciler.worker.prefill_cost import GROWTH, LEAST
from tests.support import Daemon

PATH = "/v1/completions"
STEP = 512


def read(daemon: Daemon, first: int) -> list[int]:
    """The numbers of tokens after each step that prefilled a prompt of 1,200 new tokens."""
    body = {
        "model": "beside",
        "prompt": [first, *[7] * 1199],
        "max_tokens": 1,
        "stream": True,
        "stream_options": {"include_progress": True},
    }
    with daemon.stream(PATH, body) as reply:
        events = [json.loads(line[6:]) for line in reply if line.startswith(b"data: {")]
    return [e["progress"]["prompt_tokens_read"] for e in events if "progress" in e]


def test_prefill_steps_are_small_beside_a_stream_and_large_after_it(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "beside", "eval_batch_size": STEP})
    running: dict[str, Any] = {"model": "beside", "prompt": [9], "stream": True, "ignore_eos": True}
    with shared.stream(PATH, running | {"temperature": 0}) as stream:
        assert stream.readline()
        beside = read(shared, 9)
        assert stream.readline()
    assert beside[:2] == [LEAST, LEAST + GROWTH * LEAST]
    # The stream ends soon after its client has left.
    first = iter(range(10, 200))
    shared.until(lambda: read(shared, next(first))[0] == STEP)

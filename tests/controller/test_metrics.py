"""What is counted and timed, piece by piece."""

from collections.abc import AsyncIterator

import pytest

from reconciler.controller.metrics import Metrics


def first_tokens(metrics: Metrics) -> float:
    """How many first pieces of answers were timed."""
    return (
        metrics.registry.get_sample_value("reconciler_first_token_seconds_count", {"instance": "a"})
        or 0
    )


@pytest.mark.parametrize("sign", [b": keep-alive\n\n", b' {"done": false}\n'])
async def test_a_sign_of_life_is_no_first_piece_of_an_answer(sign: bytes) -> None:
    metrics = Metrics()
    metrics.answered("a", 200)

    async def chunks() -> AsyncIterator[bytes]:
        for piece in (sign, sign, b'{"done": false}\n', b'{"done": true}\n'):
            yield piece

    seen = [first_tokens(metrics) async for _ in metrics.timed("a", 0.0, chunks())]
    assert seen == [0, 0, 1, 1]

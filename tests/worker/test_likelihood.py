"""Test the selection of the likeliest tokens without sorting the vocabulary."""

from typing import Any

import mlx.core as mx
import pytest

from reconciler.worker.likelihood import BLOCK, likelihood


def logprobs(size: int, dtype: Any, seed: int = 0) -> Any:
    values = 3 * mx.random.normal((size,), key=mx.random.key(seed))
    return (values - mx.logsumexp(values)).astype(dtype)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("size", [7, BLOCK, BLOCK + 1, 20 * BLOCK, 20 * BLOCK + 1, 32_000])
def test_the_likeliest_tokens_equal_those_found_by_sorting(size: int, dtype: Any) -> None:
    for seed, number in enumerate((0, 1, 5, 20)):
        row = logprobs(size, dtype, seed)
        values = row.tolist()
        found = likelihood(3, row, number)
        assert (found.token, found.logprob) == (3, values[3])
        assert [p for _, p in found.alternatives] == sorted(values, reverse=True)[:number]
        ids = [token for token, _ in found.alternatives]
        assert [values[token] for token in ids] == [p for _, p in found.alternatives]
        assert len(set(ids)) == min(number, size)


def test_adjacent_likeliest_tokens_are_all_found() -> None:
    row = mx.zeros((40 * BLOCK + 3,)) - 9
    row[-3:] = mx.array([-1.0, -3.0, -2.0])
    last = row.size - 1
    assert likelihood(0, row, 3).alternatives == ((last - 2, -1), (last, -2), (last - 1, -3))


def test_excluded_tokens_are_not_alternatives() -> None:
    row = mx.full((40 * BLOCK + 3,), -mx.inf)
    row[5] = 0.0
    assert likelihood(5, row, 3).alternatives == ((5, 0.0),)

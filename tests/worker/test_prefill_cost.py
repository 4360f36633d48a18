"""Test the rule that sizes prefill chunks to a budget of time."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.worker.prefill_cost import AIM, GRAIN, GROWTH, LEAST, REMEMBERED, PrefillCost

MOST = 512


def learned(*chunks: tuple[int, int, int, float]) -> PrefillCost:
    """Costs after chunks of (width, rows, begin, seconds)."""
    cost = PrefillCost()
    for chunk in chunks:
        cost.learn(*chunk)
    return cost


def test_without_a_budget_a_chunk_is_as_large_as_permitted() -> None:
    assert PrefillCost().width(math.inf, 8, 0, MOST) == MOST


@pytest.mark.parametrize(("rows", "width"), [(1, LEAST), (3, LEAST // 3), (8, LEAST // 8)])
def test_the_first_chunk_is_small(rows: int, width: int) -> None:
    assert PrefillCost().width(10.0, rows, 0, MOST) == width


def test_chunks_double_until_they_take_the_budget() -> None:
    cost, widths, begin = PrefillCost(), [], 0
    for _ in range(8):
        width = cost.width(0.25, 1, begin, MOST)
        cost.learn(width, 1, begin, 0.001 * width)
        widths.append(width)
        begin += width
    assert widths == [16, 32, 64, 128, 200, 200, 200, 200]


def test_a_chunk_far_beyond_the_known_positions_is_small_again() -> None:
    cost = learned(*[(64, 1, begin, 0.064) for begin in range(0, 512, 64)])
    assert cost.width(0.25, 1, 512, MOST) == GROWTH * 64
    assert cost.width(0.25, 1, 20_000, MOST) == LEAST


def test_attention_to_a_longer_prefix_makes_chunks_smaller() -> None:
    def seconds(width: int, begin: int) -> float:
        return width * (0.001 + 1e-6 * (begin + width / 2))

    cost, widths = PrefillCost(), []
    for begin in range(0, 16_384, 128):
        cost.learn(128, 1, begin, seconds(128, begin))
        widths.append(cost.width(0.5, 1, begin + 128, MOST))
        assert seconds(widths[-1], begin + 128) <= 0.5
    assert widths[-1] < widths[0] / 4
    assert all(after <= before for before, after in pairwise(widths[1:]))


def test_a_slow_chunk_counts_at_once_and_is_forgotten_later() -> None:
    fast = [(128, 1, 0, 0.128)] * REMEMBERED
    slow = [*fast, (128, 1, 0, 1.28)]
    assert learned(*fast).width(0.25, 1, 0, MOST) == 200
    assert learned(*slow).width(0.25, 1, 0, MOST) == LEAST
    assert learned(*slow, *fast).width(0.25, 1, 0, MOST) == 200


def test_chunks_too_small_to_be_typical_teach_nothing() -> None:
    fast = [(128, 1, 0, 0.128)] * 2
    expected = learned(*fast).width(0.25, 1, 0, MOST)
    assert learned(*fast, (3, 1, 0, 0.1)).width(0.25, 1, 0, MOST) == expected
    assert learned(*fast, (64, 1, 0, -0.01)).width(0.25, 1, 0, MOST) == expected


CHUNK = st.tuples(
    st.integers(1, 2048), st.integers(1, 8), st.integers(0, 100_000), st.floats(1e-6, 100)
)


@given(st.lists(CHUNK, max_size=20), CHUNK, st.integers(1, 2048))
@example([(512, 8, 0, 1e-6)], (1, 8, 0, 100.0), 1)
def test_the_predicted_time_is_within_the_budget_unless_the_chunk_is_the_smallest(
    chunks: list[tuple[int, int, int, float]], wanted: tuple[int, int, int, float], most: int
) -> None:
    cost = learned(*chunks)
    _, rows, begin, budget = wanted
    width = cost.width(budget, rows, begin, most)
    assert 1 <= width <= most
    if width * rows > LEAST:
        assert cost.seconds(width * rows, rows, begin) <= AIM * budget * (1 + 1e-9)
        largest = max([LEAST, *(w * r for w, r, _, _ in chunks)])
        assert width * rows <= GROWTH * largest


COSTS = (
    st.floats(1e-6, 0.02),
    st.floats(0, 1e-5),
    st.integers(1, 8),
    st.sampled_from([0, 1000, 30_000]),
)


@given(st.sampled_from([0.0, 0.001, 0.03]), *COSTS)
@settings(max_examples=60)
def test_real_times_stay_within_the_budget_and_approach_it(
    fixed: float, model: float, attention: float, rows: int, begin: int
) -> None:
    """For costs of `fixed` seconds a chunk, and `model` + `attention` x position a token.

    A fixed part is not predicted, so that a growing chunk may exceed the budget a little.
    """

    def seconds(width: float) -> float:
        return fixed + rows * width * (model + attention * (begin + width / 2))

    budget, cost = 0.25, PrefillCost()
    for _ in range(30):
        width = cost.width(budget, rows, begin, MOST)
        assert width * rows <= LEAST or seconds(width) <= budget * (1.3 if fixed else 1.0)
        cost.learn(width, rows, begin, seconds(width))
        begin += width
    more = cost.width(budget, rows, begin, MOST) + 2 * GRAIN / rows
    assert more > MOST or seconds(more) > budget / 2

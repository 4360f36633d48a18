"""Test the decisions of speculative decoding: drafts from the text, and how many of them."""

from collections.abc import Callable

import pytest

from reconciler.worker.speculation.lookup import LEAST, PromptLookup
from reconciler.worker.speculation.pace import (
    ALLOWED_LOSS,
    LARGEST_LOSS,
    PLAIN_EVERY,
    WIDTHS,
    LatestMedian,
    Pace,
    StepTimes,
)
from reconciler.worker.stalls import USUAL


def test_the_tokens_after_the_longest_earlier_occurrence_are_the_draft() -> None:
    tokens = [1, 2, 3, 4, 70, 9, 2, 3, 4, 80, 1, 2, 3, 4]
    assert PromptLookup().find(tokens, 2) == [70, 9]


def test_the_latest_of_equally_long_occurrences_is_copied() -> None:
    assert PromptLookup().find([5, 1, 2, 3, 70, 6, 1, 2, 3, 80, 7, 1, 2, 3], 1) == [80]


def test_a_short_match_is_no_draft() -> None:
    assert not PromptLookup().find([1, 2, 70, 3, 1, 2], 4)
    assert not PromptLookup().find([], 4)
    assert not PromptLookup().find([1] * LEAST, 4)
    assert not PromptLookup().find([1] * 40, 0)


def test_a_run_of_one_token_is_continued() -> None:
    assert PromptLookup().find([7] * 40, 3) == [7, 7, 7]
    assert PromptLookup().find([7] * 5, 3) == [7]


def test_a_growing_sequence_finds_what_a_whole_one_does() -> None:
    tokens = [n * n % 7 for n in range(3000)]
    growing = PromptLookup()
    for end in range(0, 3000, 37):
        whole = PromptLookup().find(tokens[:end], 9)
        assert growing.find(tokens[:end], 9) == whole
        then = tokens[end : end + 1]
        assert growing.find(tokens[:end], 9, then) == PromptLookup().find(tokens[: end + 1], 9)


def measured(cost: Callable[[int], float]) -> StepTimes:
    """Times of a session in which a step of n tokens takes `cost(n)`."""
    times = StepTimes()
    for _ in range(3):
        times.note_plain(cost(1))
    for _ in range(3):
        for width in WIDTHS:
            times.note_pass(width, width + 1, cost(width + 1))
    return times


def run(
    pace: Pace, steps: int, accepted: Callable[[int], int], cost: Callable[[int], float]
) -> list[int]:
    """The numbers of drafts of some steps; `accepted` of a pass's drafts are right."""
    widths = []
    for _ in range(steps):
        width = 0 if pace.rests else pace.choose()
        widths.append(width)
        if width:
            pace.note_pass(width, accepted(width), accepted(width) + 1, cost(width + 1))
        else:
            pace.times.note_plain(cost(1))
            pace.note_plain()
    return widths


def test_nothing_is_drafted_before_an_ordinary_step_was_measured() -> None:
    times = StepTimes()
    assert Pace(times).rests
    times.note_plain(9.0)
    assert Pace(times).rests, "the first step compiles kernels"
    times.note_plain(1.0)
    assert not Pace(times).rests
    assert Pace(times).choose() == WIDTHS[0]


def test_the_expected_gain_is_that_of_the_formula() -> None:
    pace = Pace(measured(lambda n: 1.0 if n == 1 else 2.0))
    pace.note_pass(2, 2, 3, 2.0)
    p = pace.acceptance
    assert pace.gain(4) == pytest.approx((1 - p**5) / (1 - p) / 2)


def test_wider_drafts_are_tried_one_after_the_other_while_they_pay() -> None:
    times = StepTimes()
    for _ in range(2):
        times.note_plain(1.0)
    widths = run(Pace(times), 12, lambda width: width, lambda _: 1.0)
    assert widths == sorted(widths)
    assert set(widths) == set(WIDTHS)


@pytest.mark.parametrize(("ratio", "width"), [(0.2, 16), (0.5, 8), (0.8, 8)])
def test_a_pass_takes_no_longer_than_the_smallest_stall_budget(ratio: float, width: int) -> None:
    """With a draft model of nearly the model's size, other streams waited for 14 steps."""

    def cost(tokens: int) -> float:
        return 1 + ratio * (tokens - 1)

    times = StepTimes()
    widths = run(Pace(times), 200, lambda width: width, cost)
    assert widths.count(16) <= 2 or width == 16, "a width is measured twice"
    assert {one for one in widths[-40:] if one} == {width}
    assert cost(width + 1) <= USUAL


@pytest.mark.parametrize("cost", [1.1, 1.5, 4.0])
def test_drafts_that_are_never_accepted_lose_no_more_than_allowed(cost: float) -> None:
    times = StepTimes()
    steps, lost = 0, 0.0
    for _ in range(40):  # requests
        pace = Pace(times)
        widths = run(pace, 100, lambda _: 0, lambda n: 1.0 if n == 1 else cost)
        passes = sum(1 for width in widths if width)
        steps, lost = steps + len(widths), lost + passes * (cost - 1)
    assert 0 < lost <= ALLOWED_LOSS * steps + len(WIDTHS) * cost


def test_a_pass_is_tried_again_even_after_the_largest_loss() -> None:
    times = measured(lambda n: 1.0 if n == 1 else 1.5)
    times.note_pass(2, 1, 1e6)
    widths = run(Pace(times), 600, lambda width: width, lambda n: 1.0 if n == 1 else 1.5)
    first = next(n for n, width in enumerate(widths) if width)
    assert first == pytest.approx(LARGEST_LOSS / ALLOWED_LOSS, abs=1)
    assert widths[-50:].count(0) <= 1, "from then on they are accepted"


def test_a_wrong_draft_among_right_ones_does_not_stop_them() -> None:
    pace = Pace(measured(lambda n: 1.0 if n == 1 else 1.5))
    numbers = iter(range(1000))
    right = lambda width: 0 if next(numbers) % 5 == 4 else width  # noqa: E731
    widths = run(pace, 60, right, lambda n: 1.0 if n == 1 else 1.5)
    assert widths.count(0) <= 1


def test_drafts_do_not_pay_where_a_pass_takes_as_long_as_its_tokens() -> None:
    pace = Pace(measured(float))
    widths = run(pace, 200, lambda _: 1, float)
    assert sum(1 for width in widths if width) < 10
    assert max(widths) == WIDTHS[0]


def test_ordinary_steps_are_measured_again_now_and_then() -> None:
    pace = Pace(measured(lambda n: 1.0 if n == 1 else 1.1))
    widths = run(pace, 3 * PLAIN_EVERY, lambda width: width, lambda _: 1.1)
    assert widths.count(0) == 2


def test_a_disturbed_measurement_does_not_rule_out_a_width() -> None:
    times = measured(lambda n: 1.0 if n == 1 else 1.2)
    for _ in range(3):
        times.note_pass(4, 5, 100.0)
    assert times.of(4) == pytest.approx(1.2)


def test_a_median_follows_later_values_and_ignores_single_ones() -> None:
    latest = LatestMedian()
    latest.add(50.0)
    assert latest.value == 0
    for value in (1.0, 1.0, 1000.0, 1.0, 1000.0):
        latest.add(value)
        assert latest.value == 1.0
    for _ in range(5):
        latest.add(3.0)
    assert latest.value == 3.0

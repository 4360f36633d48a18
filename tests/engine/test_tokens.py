"""Counts of tokens that persist across sessions and workers."""

import pytest

from reconciler.core.protocol import FirstTokens, Pulse, Usage
from reconciler.engine.tokens import Tokens


def pulse(**usage: Usage) -> Pulse:
    return Pulse(0, busy=False, usage=usage)


def test_an_instance_has_the_sum_of_its_sessions() -> None:
    tokens = Tokens()
    tokens.open("1", "a")
    tokens.read(pulse(**{"1": Usage(10, 3)}))
    tokens.open("2", "a")  # other settings; the old session is still draining
    tokens.read(pulse(**{"1": Usage(10, 5), "2": Usage(1, 1)}))
    assert tokens.totals() == {"a": Usage(11, 6)}
    tokens.close("1", Usage(10, 7))
    assert tokens.totals() == {"a": Usage(11, 8)}


def test_the_last_reading_counts_if_there_is_no_final_one() -> None:
    tokens = Tokens()
    tokens.open("1", "a")
    tokens.read(pulse(**{"1": Usage(10, 3)}))
    tokens.close("1")
    tokens.close("1", Usage(99, 99))
    assert tokens.totals() == {"a": Usage(10, 3)}


def test_counts_never_decrease_and_unknown_sessions_are_not_counted() -> None:
    tokens = Tokens()
    tokens.open("1", "a")
    for usage in (Usage(10, 3), Usage(10, 2), Usage(9, 3)):
        tokens.read(pulse(**{"1": usage, "not yet": Usage(5, 5)}))
    tokens.close("not yet")
    assert tokens.totals() == {"a": Usage(10, 3)}


def test_an_instance_without_requests_has_no_tokens() -> None:
    tokens = Tokens()
    tokens.open("1", "a")
    assert tokens.totals() == {"a": Usage(0, 0)}


def test_counts_are_dropped_with_the_record_after_its_session_closes() -> None:
    tokens = Tokens()
    for session, name in (("1", "idle"), ("2", "gone"), ("3", "drains")):
        tokens.open(session, name)
        tokens.read(pulse(**{session: Usage(10, 3)}))
    tokens.close("1")
    tokens.close("2")
    tokens.retain_only({"idle"})
    assert tokens.totals() == {"idle": Usage(10, 3), "drains": Usage(10, 3)}
    tokens.close("3", Usage(10, 7))
    tokens.retain_only({"idle"})
    assert tokens.totals() == {"idle": Usage(10, 3)}


def test_times_to_first_token_add_up_and_never_decrease() -> None:
    tokens = Tokens()
    for session in "12":
        tokens.open(session, "a")
    early = FirstTokens().with_one(0.03)
    late = early.with_one(0.05).with_one(99)
    tokens.read(pulse(**{"1": Usage(first_tokens=late)}))
    tokens.read(pulse(**{"1": Usage(first_tokens=early)}))
    tokens.close("2", Usage(first_tokens=FirstTokens().with_one(7)))
    total = tokens.totals()["a"].first_tokens
    assert total.counts == (0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1)
    assert total.seconds == pytest.approx(0.03 + 0.05 + 99 + 7)

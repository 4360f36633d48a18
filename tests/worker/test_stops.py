"""Test that a text ends at the first complete stop."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.worker.output.stops import Stops

TEXTS = st.text("ab\n", max_size=30)


def expected(text: str, stops: list[str]) -> str | None:
    """The text before the first complete stop, the longest if several end; None without one."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(TEXTS, st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4), st.randoms())
def test_the_first_complete_stop_ends_the_text_however_it_is_split(
    text: str, stops: list[str], draw: random.Random
) -> None:
    one, passed, position = Stops(stops), "", 0
    while position < len(text) and not one.stopped:
        size = draw.randint(1, 4)
        passed += one.feed(text[position : position + size])
        position += size
        assert len(one.held) < max(map(len, stops), default=1)
    whole = expected(text, stops)
    assert one.stopped is (whole is not None)
    assert passed + one.release() == (text if whole is None else whole)


def test_nothing_follows_a_stop() -> None:
    one = Stops(["b"])
    assert one.feed("abc") == "a"
    assert one.feed("d") == one.release() == ""


class Counted(str):
    """A stop that counts reads of its characters."""

    __slots__ = ()
    looks = 0

    def __getitem__(self, key: object) -> str:
        Counted.looks += 1
        return super().__getitem__(key)  # type: ignore[index]


@pytest.mark.parametrize("text", ["a" * 20_000, ("a" * 999 + "c") * 20])
def test_the_cost_per_character_does_not_depend_on_the_length_of_stops(text: str) -> None:
    """The worst text for a search that restarts at each position."""
    one = Stops([Counted("a" * (900 + i) + "b") for i in range(16)])
    Counted.looks = 0
    passed = "".join(one.feed(text[i : i + 4]) for i in range(0, len(text), 4))
    assert passed + one.release() == text
    assert Counted.looks < 5 * 16 * len(text)

"""Differences of sequences, by identity."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.difference import difference

objects = st.lists(st.sampled_from([object() for _ in range(4)]), max_size=8)


@given(objects, objects)
def test_removed_and_added_objects_are_the_whole_difference(
    before: list[object], after: list[object]
) -> None:
    gone, come = difference(before, after)
    assert Counter(before) - Counter(gone) + Counter(come) == Counter(after)
    assert not Counter(gone) & Counter(come)


def test_equal_objects_are_not_identical() -> None:
    one, other = [1], [1]
    assert difference([one], [one]) == ([], [])
    gone, come = difference((one, one), (other, one))
    assert (gone[0] is one, come[0] is other) == (True, True)

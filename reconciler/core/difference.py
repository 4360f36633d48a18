"""Difference between two long sequences that share most of their objects.

Objects are compared by identity, which costs nothing; an equal object that was newly created
counts as a different one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress, count
from operator import is_not
from typing import TypeVar

T = TypeVar("T")


def difference(before: Sequence[T], after: Sequence[T]) -> tuple[list[T], list[T]]:
    """Objects removed and objects added, with multiplicity."""
    start = _same(before, after)
    before, after = before[start:], after[start:]
    end = _same(before[::-1], after[::-1])
    before, after = before[: len(before) - end], after[: len(after) - end]
    was, now = Counter(map(id, before)), Counter(map(id, after))
    return _pick(before, was - now), _pick(after, now - was)


def _same(one: Sequence[T], other: Sequence[T]) -> int:
    """Length of the common prefix."""
    return next(compress(count(), map(is_not, one, other)), min(len(one), len(other)))


def _pick(objects: Iterable[T], wanted: Counter[int]) -> list[T]:
    """Objects whose ids are wanted, each as often as counted."""
    if not wanted:
        return []
    picked = []
    for one in objects:
        if wanted[id(one)] > 0:
            wanted[id(one)] -= 1
            picked.append(one)
    return picked

"""What differs between two long sequences that are mostly the same objects.

Objects are compared by identity, which costs nothing; an equal object that was made again counts
as another one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress, count
from operator import is_not
from typing import TypeVar

T = TypeVar("T")


def difference(before: Sequence[T], after: Sequence[T]) -> tuple[list[T], list[T]]:
    """The objects that went, and those that came, each as often as it did."""
    start = _same(before, after)
    before, after = before[start:], after[start:]
    end = _same(before[::-1], after[::-1])
    before, after = before[: len(before) - end], after[: len(after) - end]
    was, now = Counter(map(id, before)), Counter(map(id, after))
    return _pick(before, was - now), _pick(after, now - was)


def _same(one: Sequence[T], other: Sequence[T]) -> int:
    """How many objects are the same at the beginning of both."""
    return next(compress(count(), map(is_not, one, other)), min(len(one), len(other)))


def _pick(objects: Iterable[T], wanted: Counter[int]) -> list[T]:
    """The objects whose ids are wanted, each as often as that."""
    if not wanted:
        return []
    picked = []
    for one in objects:
        if wanted[id(one)] > 0:
            wanted[id(one)] -= 1
            picked.append(one)
    return picked

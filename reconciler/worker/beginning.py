"""Common prefix of two sequences."""

from typing import TypeVar

T = TypeVar("T", str, list[int])


def common(one: T, other: T) -> int:
    """Length of the common prefix of `one` and `other`."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # comparing slices is faster than comparing items
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least

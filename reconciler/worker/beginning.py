"""The beginning that two sequences share."""

from typing import TypeVar

T = TypeVar("T", str, list[int])


def common(one: T, other: T) -> int:
    """How many items they share from the beginning."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # slices compare quickly
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least

"""Memory that nobody holds, lent to instances that answer: no byte to two of them.

An instance is lent its share when the first of its requests comes, and gives it back with the last.
"""

from collections.abc import Callable


class Grants:
    """Bytes by instance name."""

    def __init__(self, spare: Callable[[str], tuple[int, int]]) -> None:
        """`spare` tells how much there is for an instance, what others are lent included, and how
        many instances may want it that are lent nothing yet.
        """
        self._spare = spare
        self._lent: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._lent

    def grant(self, name: str) -> int:
        """What an instance may take beside what it holds, as long as it answers."""
        if name not in self._lent:
            free, wanting = self._spare(name)
            self._lent[name] = max(0, free - sum(self._lent.values())) // wanting
        return self._lent[name]

    def end(self, name: str) -> None:
        """It answers nothing any more."""
        self._lent.pop(name, None)

"""Memory that nobody holds, lent to instances that answer: no byte to two of them.

An instance is lent its share when the first of its requests comes, and gives it back with the last.
"""

from collections.abc import Callable


class Grants:
    """Bytes by instance name."""

    def __init__(
        self, spare: Callable[[str], tuple[int, int]], unheld: Callable[[str], int]
    ) -> None:
        """`spare` tells how much there is for an instance, what others are lent included, and how
        many instances may want it that are lent nothing yet. `unheld` tells how much there would
        be if it used nothing.
        """
        self._spare, self._unheld = spare, unheld
        self._lent: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._lent

    def grant(self, name: str) -> int:
        """What an instance may take beside what it holds, as long as it answers.

        Less than before if others were let in meanwhile.
        """
        lent = self._lent.pop(name, None)
        others = sum(self._lent.values())
        if lent is None:
            free, wanting = self._spare(name)
            lent = max(0, free - others) // wanting
        self._lent[name] = min(lent, max(0, self._unheld(name) - others))
        return self._lent[name]

    def end(self, name: str) -> None:
        """It answers nothing any more."""
        self._lent.pop(name, None)

"""A KV cache to be written, whose memory can be released at any time.

The files of a cache are written from copies of its arrays, one at a time. So once the write is
ended, a disk that hangs holds a copy of one block of one array, and nothing else.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reconciler.worker.disk import layout
from reconciler.worker.disk.files import Array, EndedError, Part
from reconciler.worker.disk.names import BLOCK, Names, Tokens

ROWS = "rows "
"""Prefix of the names of arrays with a row per token."""

NO_TOKENS: Tokens = np.empty(0, dtype=np.int64)


class Write:
    """A cache to be written."""

    def __init__(
        self,
        names: Callable[[bytes], Names],
        tokens: Tokens,
        parts: layout.Parts,
        *,
        has_rows: bool = True,
        only_rows: bool = True,
    ) -> None:
        """`names` returns the names of files under a key; `has_rows`, `only_rows`: as `layout`'s
        functions of these names.
        """
        self.names = names
        self.has_rows, self.only_rows = has_rows, only_rows
        self._tokens = tokens
        self._parts: layout.Parts | None = parts
        """None once it is written or ended."""

    @property
    def over(self) -> bool:
        """True if it holds no memory of the cache any more. Thread-safe."""
        return self._parts is None

    def end(self) -> None:
        """Release the cache's memory, whether it is written or not. Thread-safe.

        A write in progress ends with the array that it is writing.
        """
        self._parts, self._tokens = None, NO_TOKENS

    @property
    def tokens(self) -> Tokens:
        """Tokens of the cache. Raises `EndedError`."""
        tokens = self._tokens
        if self._parts is None:
            raise EndedError
        return tokens

    def file(self, block: int, *, ends: bool) -> tuple[list[Part], str]:
        """Arrays and state of a block's file, or of a tail's. Raises `EndedError`."""
        if (parts := self._parts) is None:
            raise EndedError
        begin = block * BLOCK
        rows = slice(begin, None if ends else begin + BLOCK)
        wanted = [
            (f"{ROWS}{name}", kind, array[..., rows, :], partial(self._copy_rows, name, rows))
            for name, (kind, array) in parts.rows.items()
        ]
        if ends:
            wanted += [
                (name, kind, array, partial(self._copy_whole, name))
                for name, (kind, array) in parts.whole.items()
            ]
        return [_part(*one) for one in wanted], parts.state if ends else "{}"

    def _copy_rows(self, name: str, rows: slice) -> Array:
        if (parts := self._parts) is None:
            raise EndedError
        return np.array(parts.rows[name][1][..., rows, :], order="C")

    def _copy_whole(self, name: str) -> Array:
        if (parts := self._parts) is None:
            raise EndedError
        return np.array(parts.whole[name][1], order="C")


def _part(name: str, kind: str, array: Any, copy: Callable[[], Array]) -> Part:
    return Part(name, kind, array.shape, array.nbytes, copy)

"""The prompts on disk that one session can use: their names, and which of them serve a prompt."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from reconciler.worker.disk import layout
from reconciler.worker.disk.fetches import Done, Fetch, Found
from reconciler.worker.disk.names import BLOCK, Names, Tokens, split_tail
from reconciler.worker.disk.store import PromptDisk
from reconciler.worker.disk.writes import Write

LEAST = 256
"""Tokens that a file must save to be read or written: fewer are computed as quickly."""

Make = Callable[[], Sequence[Any]]
"""Returns an empty cache of a model."""


class Scope:
    """The prompts of one scope: a model with its adapter and the settings that change numbers."""

    def __init__(self, disk: PromptDisk, scope: Mapping[str, Any], make: Make) -> None:
        template = make()
        self.make = make
        self.only_rows, self.has_rows = layout.only_rows(template), layout.has_rows(template)
        self._disk, self._supported = disk, layout.supported(template)
        self._kinds = layout.kinds(template)
        self._scope = {**scope, "kinds": self._kinds}
        self._names: tuple[bytes, Names] | None = None

    def save(self, tokens: Tokens, cache: Sequence[Any]) -> Write | None:
        """Write a cache that holds these tokens, later. Raises nothing. MLX thread only."""
        if len(tokens) < LEAST or not self._supported or not self._disk.writes:
            return None
        try:
            if layout.kinds(cache) != self._kinds:
                return None
            parts = layout.split(cache, len(tokens))
        except Exception:  # noqa: BLE001  the requests do not depend on it
            return None
        write = Write(self.names, tokens, parts, has_rows=self.has_rows, only_rows=self.only_rows)
        self._disk.write(write)
        return write

    def fetch(self, tokens: Sequence[int], known: int, done: Done) -> Fetch | None:
        """Read the longest prefix of a prompt, if it saves enough tokens. MLX thread only.

        Returns None, and does not call `done`, if there is none.
        """
        if not self._supported or len(tokens) - known <= LEAST:
            return None
        wanted = np.asarray(tokens[:-1], dtype=np.int64)
        if self.find(wanted, known) is None or not self._disk.reads:
            return None
        fetch = Fetch(partial(self.find, wanted, known), done)
        self._disk.read(fetch)
        return fetch

    def names(self, key: bytes) -> Names:
        """The names of files under this key."""
        if self._names is None or self._names[0] != key:
            self._names = key, Names(key, self._scope)
        return self._names[1]

    def find(self, tokens: Tokens, known: int) -> Found | None:
        """Find the longest stored prefix, if it is long enough."""
        key, index = self._disk.key, self._disk.directory.index
        if key is None:
            return None
        names = self.names(key)
        chain = names.blocks(tokens)
        here = 0
        while here + 1 < len(chain) and (chain[here + 1] in index.names or not self.has_rows):
            here += 1
        for blocks in range(here, -1, -1):
            rest = tokens[blocks * BLOCK :][: BLOCK - 1]
            tails = sorted(
                ((split_tail(name) or ("", 0))[1], name)
                for name in index.tails.get(chain[blocks], set()).copy()
            )
            for count, name in reversed(tails):
                if count <= len(rest) and names.tail(chain[blocks], rest[:count]) == name:
                    return self._enough(chain[: blocks + 1], name, count, known)
            if self.only_rows and blocks:
                return self._enough(chain[: blocks + 1], None, 0, known)
        return None

    def _enough(self, chain: list[str], tail: str | None, count: int, known: int) -> Found | None:
        """The files of a prefix whose tail has `count` tokens, if it is long enough."""
        tokens = (len(chain) - 1) * BLOCK + count
        blocks = chain[1:] if self.has_rows else []
        return Found(tokens, [*blocks, *filter(None, [tail])]) if tokens - known >= LEAST else None

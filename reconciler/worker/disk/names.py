"""Names of prompt files: keyed hashes of all tokens up to a position.

A prompt is divided into blocks of `BLOCK` tokens. The name of a block is the hash of the name of
the block before it and of its own tokens; the first block continues a hash of the scope, which is
everything that the numbers in a KV cache depend on besides the tokens. So prompts with a common
prefix share the names of its blocks, and prompts of another scope share none.

The state of a cache at the end of its tokens is a file of its own (a tail), named after the last
complete block, the number of further tokens, and their hash.

The key keeps the names from telling which prompts they belong to: without it, nobody can test a
guessed prompt against the names.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 128
"""Tokens of a block. Two prompts share all but the last, incomplete block of their prefix."""

KEY_BYTES = 32

Tokens = npt.NDArray[np.int64]


class Names:
    """Names of the files of one scope."""

    def __init__(self, key: bytes, scope: Mapping[str, Any]) -> None:
        self._key = key
        self._root = self._hash(json.dumps(scope, sort_keys=True).encode())

    def blocks(self, tokens: Tokens) -> list[str]:
        """Chain of a prompt: the scope's name, then those of its complete blocks."""
        chain = [self._root]
        for begin in range(0, len(tokens) - BLOCK + 1, BLOCK):
            chain.append(self._hash(_bytes(chain[-1], tokens[begin : begin + BLOCK])))
        return chain

    def tail(self, block: str, tokens: Tokens) -> str:
        """Name of the tail after `block` and fewer than `BLOCK` further tokens."""
        return f"{block}.{len(tokens)}.{self._hash(_bytes(block, tokens))}"

    def _hash(self, data: bytes) -> str:
        return blake2b(data, key=self._key, digest_size=20).hexdigest()


def split_tail(name: str) -> tuple[str, int] | None:
    """Block and number of further tokens of a tail; None if `name` is not that of a tail."""
    parts: Sequence[str] = name.split(".")
    if len(parts) != 3 or not parts[1].isdecimal():
        return None
    return parts[0], int(parts[1])


def _bytes(block: str, tokens: Tokens) -> bytes:
    return block.encode() + tokens.astype("<i8").tobytes()

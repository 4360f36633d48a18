"""Answers as JSON, whatever text is in them.

Paths, queries, headers and file names can hold bytes that are no UTF-8. Python keeps them as halves
of surrogate pairs, which no JSON can hold; they become U+FFFD.
"""

from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """Any value of dataclasses and plain types as JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # Of the values that `to_builtins` does not know, only what is JSON already comes here.
        plain = msgspec.to_builtins(value, enc_hook=msgspec.json.decode)
        return msgspec.json.encode(_whole(plain))


def whole(text: str) -> str:
    """`text` with U+FFFD in place of what UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value

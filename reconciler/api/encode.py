"""JSON encoding of responses, including text that is not valid Unicode.

Paths, queries, headers and file names can hold bytes that are not UTF-8. Python represents them as
lone surrogates, which JSON cannot encode; they become U+FFFD.
"""

from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """Encode a value of dataclasses and plain types as JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # The only values here that `to_builtins` does not know are encoded JSON (`msgspec.Raw`).
        plain = msgspec.to_builtins(value, enc_hook=msgspec.json.decode)
        return msgspec.json.encode(_whole(plain))


def whole(text: str) -> str:
    """Replace characters of `text` that UTF-8 cannot encode with U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value

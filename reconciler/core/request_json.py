"""Decodes bodies of completion requests as JSON, leniently for known errors of clients.

Clients that cut a text in the middle of an emoji send half a surrogate pair, as `\\ud83d`. JSON
decoders refuse it, because it is not text; a conversation with one in its history could never
continue. It becomes U+FFFD, as in a browser. Clients on Windows may put a byte order mark before
the body, which RFC 8259 lets a reader ignore.
"""

import codecs
import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

_SURROGATES = re.compile(
    rb"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""Pairs and halves of pairs, in data without escaped backslashes."""

_REPLACEMENT = rb"\ufffd"

_BACKSLASH, _MASK = rb"\\", b"\xff\xff"
"""An escaped backslash, and its placeholder: bytes that do not occur in UTF-8."""

PIECE_BYTES = 2**17

LONGEST = 12
"""Bytes of the longest match, a pair."""


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a value of type `kind`.

    Raises `msgspec.ValidationError` if it has another type, `ValueError` or `RecursionError` if it
    is not JSON.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        whole = _repaired(data)
        if whole == data:
            raise
        return msgspec.json.decode(whole, type=kind)


def _repaired(data: bytes) -> bytes:
    """Replace each half of a pair by U+FFFD.

    Escaped backslashes are masked first, because matching millions of them in the expression takes
    half a second. All steps take a piece at a time: during one call no other thread runs.
    """
    if _MASK[:1] in data:
        return data
    masked = _replaced(data, _BACKSLASH, _MASK)
    return _replaced(_without_halves(masked), _MASK, _BACKSLASH)


def _replaced(data: bytes, doubled: bytes, by: bytes) -> bytes:
    """Replace two equal bytes by two others, as `bytes.replace`."""
    pieces, at = [], 0
    while at < len(data):
        piece = data[at : at + PIECE_BYTES].replace(doubled, by)
        if piece[-1:] == doubled[:1] and len(piece) > 1:  # the next piece may begin with the other
            piece = piece[:-1]
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def _without_halves(masked: bytes) -> bytes:
    """Replace the halves of pairs in masked data."""
    view, whole = memoryview(masked), bytearray()
    at = copied = 0
    while at < len(masked):
        end = at + PIECE_BYTES
        at = end
        for found in _SURROGATES.finditer(masked, end - PIECE_BYTES, end + LONGEST - 1):
            start, stop = found.span()
            if start >= end:
                break
            at = max(end, stop)
            if found.lastgroup is None:  # no pair
                if copied < start:
                    whole += view[copied:start]
                whole += _REPLACEMENT
                copied = stop
    whole += view[copied:]
    return bytes(whole)

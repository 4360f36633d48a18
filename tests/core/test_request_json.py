"""Bodies that are not valid JSON, but that clients send."""

import codecs
import re
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import request_json


def test_a_byte_order_mark_before_the_body_is_ignored() -> None:
    assert request_json.decode(codecs.BOM_UTF8 + b'{"a": 1}', object) == {"a": 1}
    with pytest.raises(msgspec.DecodeError):
        request_json.decode(codecs.BOM_UTF8 * 2 + b"{}", object)


def reference(data: bytes) -> bytes:
    """Replace all halves in one call."""
    kept = rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    half = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
    return re.sub(b"(%s)|%s" % (kept, half), lambda m: m[1] or rb"\ufffd", data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"\\", b"\\ud83d", b"\\uDE00", b"\\u00e9", b"d8", b"u", b"z"])))
def test_halves_are_replaced_in_pieces_of_any_alignment(parts: list[bytes]) -> None:
    data = b"".join(parts)
    for size in (2, 3, 5, 12, 13):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request_json, "PIECE_BYTES", size)
            assert request_json._repaired(data) == reference(data)


class Bounded:
    """The expression; notes the bytes that one call may search, during which no thread runs."""

    def __init__(self) -> None:
        self.longest = 0

    def finditer(self, data: bytes, begin: int, end: int) -> Iterator[re.Match[bytes]]:
        self.longest = max(self.longest, min(end, len(data)) - begin)
        return EXPRESSION.finditer(data, begin, end)


EXPRESSION = request_json._SURROGATES


def test_a_long_body_is_repaired_in_pieces_between_which_other_threads_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One call took a quarter of a second for 16 MB, in which the daemon did nothing else."""
    bounded = Bounded()
    monkeypatch.setattr(request_json, "_SURROGATES", bounded)
    data = b"a" * 1_000_000 + rb"\ud83d"
    assert request_json._repaired(data) == b"a" * 1_000_000 + rb"\ufffd"
    assert bounded.longest < request_json.PIECE_BYTES + 12

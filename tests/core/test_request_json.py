"""Bodies that are not valid JSON, but that clients send."""

import codecs

import msgspec
import pytest

from reconciler.core import request_json


def test_a_byte_order_mark_before_the_body_is_ignored() -> None:
    assert request_json.decode(codecs.BOM_UTF8 + b'{"a": 1}', object) == {"a": 1}
    with pytest.raises(msgspec.DecodeError):
        request_json.decode(codecs.BOM_UTF8 * 2 + b"{}", object)

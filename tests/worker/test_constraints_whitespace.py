"""Test that a JSON answer cannot go on for ever if its schema sets no bounds."""

import pytest
from llguidance import LLMatcher, LLTokenizer

from reconciler.worker.constraints.asked import _ANY_OBJECT
from reconciler.worker.constraints.compiling import schema_grammar, whole

TOKENIZER = LLTokenizer("byte")
GRAMMAR = whole([schema_grammar("answer", _ANY_OBJECT)])


def taken(text: str) -> tuple[bool, bool]:
    """Two flags: a model may write this text for `json_object`; it must end there."""
    matcher = LLMatcher(TOKENIZER, GRAMMAR)
    tokens = TOKENIZER.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens), matcher.is_stopped()


@pytest.mark.parametrize("text", ["{}", '{"a": [1, {"b": null}]}', '{\n    "a": [1,\n    2]\n}'])
def test_nothing_may_follow_the_end_of_an_object(text: str) -> None:
    assert taken(text) == (True, True)
    for more in (" ", "\n", "}", "{"):
        assert not taken(text + more)[0]


@pytest.mark.parametrize(
    "text", ["  {", "{  ", '{"a":  1', '{"a": 1\n\n', '{"a": 1,\n' + " " * 25, "{\t\t"]
)
def test_whitespace_is_bounded_between_the_parts_of_an_object(text: str) -> None:
    assert not taken(text)[0]

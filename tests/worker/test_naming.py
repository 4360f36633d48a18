"""Test that errors and warnings use the key names of the client's dialect."""

import pytest

from reconciler.worker.dialects.naming import named, renamed, reworded
from reconciler.worker.errors import RequestError, UnavailableError

NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
    "tools[0].function": "tools[2]",
}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("messages", "input"),
        ("messages[3].content", "input[3].content"),
        ("messages_of_others", "messages_of_others"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format.json_schema.name", "text.format.json_schema.name"),
        ("tools[0].function.parameters", "tools[2].parameters"),
        ("tools[1].function", "tools[1].function"),
        ("temperature", "temperature"),
    ],
)
def test_the_longest_known_prefix_of_a_key_is_renamed(key: str, expected: str) -> None:
    assert named(key, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("response_format cannot be enforced: x", "text.format cannot be enforced: x"),
        ("tools[0].function.parameters: no", "tools[2].parameters: no"),
        ("the prompt has 5 tokens; messages", "the prompt has 5 tokens; messages"),
        ("", ""),
        ("[0] messages", "[0] messages"),
    ],
)
def test_only_the_key_at_the_beginning_of_a_message_is_renamed(text: str, expected: str) -> None:
    assert reworded(text, NAMES) == expected


def test_an_error_keeps_its_type_code_and_status() -> None:
    error = renamed(RequestError("messages: too long", "too_long", "messages"), NAMES)
    assert (str(error), error.code, error.param) == ("input: too long", "too_long", "input")
    later = renamed(UnavailableError("wait", "overloaded"), NAMES)
    assert (type(later), later.status, later.param) == (UnavailableError, 503, None)

"""Errors that the daemon sends in a response stream that it has begun itself."""

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent

from reconciler.api.responses import SIGNS
from tests.strictly import strictly


def error_and_response(events: bytes) -> tuple[Any, Any]:
    """The error that the client raises, and the failed response."""
    first, last = (
        json.loads(block.partition("data: ")[2]) for block in events.decode().split("\n\n")[:-1]
    )
    error = first.pop("error")
    assert strictly(ResponseStreamEvent, first).message == error["message"]
    return error, strictly(ResponseStreamEvent, last).response.error


def test_an_error_of_the_daemon_is_sent_as_events() -> None:
    failure = {"type": "unavailable", "code": "model_loading", "message": "not yet \udcff"}
    error, failed = error_and_response(SIGNS.error(failure, 503))
    assert error == failure | {"message": "not yet \ufffd"}
    assert (failed.code, failed.message) == ("server_error", "not yet \ufffd")


@pytest.mark.parametrize(
    ("body", "code", "known"),
    [
        (
            {"error": {"type": "invalid_request", "code": "invalid_value", "message": "no"}},
            *("invalid_value", "invalid_prompt"),
        ),
        (
            {"error": {"type": "unavailable", "code": "overloaded", "message": "no"}},
            *("overloaded", "server_error"),
        ),
        ({"message": "KeyError: 'a'", "permanent": False}, "internal_error", "server_error"),
    ],
)
def test_an_error_of_the_worker_is_sent_as_events(body: Any, code: str, known: str) -> None:
    error, failed = error_and_response(SIGNS.whole(json.dumps(body).encode()))
    assert (error["code"], failed.code) == (code, known)

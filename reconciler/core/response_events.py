"""Server-sent events of OpenAI's Responses that both daemon and worker write.

Source of the formats: the types in the package `openai`, `types/responses/`. An `error` event has
the keys of its reference plus `error`, as in OpenAI's own streams: their Python client raises an
exception only then. `response.failed` follows, because agents wait for it.
"""

from typing import Any

import msgspec

SERVER_ERROR = 500

_KEPT = ("context_length_exceeded", "server_error", "rate_limit_exceeded", "invalid_prompt")
"""Our codes that clients handle in a failed response: Codex shortens its history on the
first."""


def encoded(event: dict[str, Any]) -> bytes:
    """Encode an event, which has a `type`."""
    kind: bytes = event["type"].encode()
    return b"event: " + kind + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


def begun(identity: str, created: int, model: str) -> dict[str, Any]:
    """A response that is in progress, without content."""
    return {
        "id": identity,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def failure(
    error: dict[str, str], status: int, response: dict[str, Any], sequence: int
) -> list[dict[str, Any]]:
    """Events that end a stream with an error; `status` is the HTTP status that it would have had.

    `response` is the response so far; `sequence` is the sequence number of the first event.
    """
    code = error.get("code", "")
    if code not in _KEPT:
        code = "server_error" if status >= SERVER_ERROR else "invalid_prompt"
    short = {"code": code, "message": error["message"]}
    flat = {key: error.get(key) for key in ("code", "message", "param")}
    return [
        {"type": "error", "sequence_number": sequence, **flat, "error": error},
        {
            "type": "response.failed",
            "sequence_number": sequence + 1,
            "response": response | {"status": "failed", "error": short},
        },
    ]

"""Server-sent events of OpenAI's Responses, as far as daemon and worker both write them.

Source of the forms: the types in the package `openai`, `types/responses/`. An `error` event has the
keys of its reference and besides `error`, as OpenAI's own streams have it: its Python client raises
an exception only then. `response.failed` follows, which is what agents wait for.
"""

from typing import Any

import msgspec

SERVER_ERROR = 500

_KEPT = ("context_length_exceeded", "server_error", "rate_limit_exceeded", "invalid_prompt")
"""Codes of ours that clients know in a failed response: Codex makes its history shorter at the
first."""


def encoded(event: dict[str, Any]) -> bytes:
    """An event, which has a `type`."""
    kind: bytes = event["type"].encode()
    return b"event: " + kind + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


def begun(identity: str, created: int, model: str) -> dict[str, Any]:
    """A response of which nothing is known but that it is made."""
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
    """The events that end a stream by an error, which would have had that HTTP status.

    `response` is as it was; `sequence` is the number of the first of them.
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

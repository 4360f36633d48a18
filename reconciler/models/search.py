"""Search a Hugging Face hub: `python -m reconciler.models.search QUERY LIMIT [LIBRARY]`.

Runs in a separate process, as `fetch` does, with the same endpoint, token and proxies. It prints
one line of JSON with the models or an error.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from reconciler.models.fetch import ENVIRONMENT, end_with_stdin, understood

CONNECT_SECONDS = 5.0
"""Deadline for a connection to the hub."""

ANSWER_SECONDS = 20.0
"""Maximum wait for the next part of its answer."""

ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8.0),
    **dict.fromkeys(("F32", "I32", "U32"), 4.0),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2.0),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1.0),
    "F4": 0.5,
}
"""Bytes per value, by safetensors' dtype."""


def main(query: str, limit: int, library: str | None) -> None:
    """Print the matching models, most downloaded first."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    os.environ.update(ENVIRONMENT)
    try:
        found = json.dumps({"models": _search(query, limit, library)})
    except Exception as error:  # noqa: BLE001  every failure is reported to the daemon
        problem = understood(error, query, "")
        found = json.dumps({"error": problem.code, "message": str(problem)})
    sys.stdout.write(found + "\n")
    sys.stdout.flush()


class _Weights(msgspec.Struct):
    parameters: dict[str, int] = {}


class _Found(msgspec.Struct, rename="camel"):
    """A model in the hub's answer."""

    id: str
    safetensors: _Weights | None = None
    downloads: int | None = None
    gated: bool | str | None = None
    last_modified: datetime | None = None


def _search(query: str, limit: int, library: str | None) -> list[dict[str, Any]]:
    """Ask the hub once: its client library tries five times, which takes half a minute."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
    )

    expand = ("safetensors", "downloads", "gated", "lastModified")
    answer = get_session().get(
        f"{constants.ENDPOINT}/api/models",
        params=[
            ("search", query),
            ("sort", "downloads"),
            ("limit", str(limit)),
            *(("filter", tag) for tag in [library] if tag),
            *(("expand", key) for key in expand),
        ],
        headers=build_hf_headers(),
        timeout=(CONNECT_SECONDS, ANSWER_SECONDS, ANSWER_SECONDS, CONNECT_SECONDS),
    )
    hf_raise_for_status(answer)
    return [
        {
            "model": model.id,
            "size_bytes": weights_bytes(model.safetensors.parameters)
            if model.safetensors is not None
            else None,
            "downloads": model.downloads or 0,
            "gated": bool(model.gated),
            "updated_at": model.last_modified.isoformat() if model.last_modified else None,
        }
        for model in msgspec.json.decode(answer.content, type=list[_Found])[:limit]
    ]


def weights_bytes(parameters: Mapping[str, int]) -> int | None:
    """Size of the weights, from their numbers by dtype; None if a dtype is unknown."""
    if not parameters or any(kind not in ITEM_BYTES for kind in parameters):
        return None
    return int(sum(ITEM_BYTES[kind] * number for kind, number in parameters.items()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)

"""List of models in the format of Anthropic's clients: pages that follow or precede a model."""

from datetime import UTC, datetime
from typing import Any

from multidict import MultiMapping

from reconciler.api.errors import ApiError

DEFAULT_LIMIT, MOST = 20, 1000
"""Models per page: default and maximum. Source: Anthropic's API reference, "List Models"."""

PAGE = {
    "type": "object",
    "required": ["data", "has_more", "first_id", "last_id"],
    "properties": {"data": {"type": "array"}, "has_more": {"type": "boolean"}},
}

INFO = {
    "type": "object",
    "required": ["type", "id", "display_name", "created_at"],
    "properties": {"type": {"const": "model"}, "id": {"type": "string"}},
}


def page(models: list[dict[str, Any]], query: MultiMapping[str]) -> dict[str, Any]:
    """Select a page of models, which are in OpenAI's format. Raises `ApiError`."""
    limit = _limit(query.get("limit", ""))
    names = [model["id"] for model in models]
    if (before := query.get("before_id")) is not None:
        end = _place(names, before, "before_id")
        begin = max(0, end - limit)
        more = begin > 0
    else:
        after = query.get("after_id")
        begin = 0 if after is None else _place(names, after, "after_id") + 1
        end = begin + limit
        more = end < len(models)
    found = [info(model) for model in models[begin:end]]
    return {
        "data": found,
        "has_more": more,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def info(model: dict[str, Any]) -> dict[str, Any]:
    """Convert a model from OpenAI's format."""
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(model["created"], UTC).isoformat(),
        "lifecycle": "active",
    }


def _limit(sent: str) -> int:
    if not sent:
        return DEFAULT_LIMIT
    if sent.isdecimal() and sent.isascii() and len(sent) < 6 and 1 <= int(sent) <= MOST:
        return int(sent)
    words = f"limit: expected a number from 1 to {MOST}"
    raise ApiError(400, "invalid_request", words, "invalid_value", "limit")


def _place(names: list[str], name: str, key: str) -> int:
    if name not in names:
        words = f"{key}: there is no model {name} in the list"
        raise ApiError(400, "invalid_request", words, "invalid_value", key)
    return names.index(name)

"""The APIs through which an instance serves requests, with their paths and error formats.

A dialect is defined in three places: here, in `worker.dialects` (parsing of requests, writing of
responses), and in `api` (its route, and how its requests name a model).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Dialect(StrEnum):
    """A format of requests and responses; the value is its path below an instance."""

    CHAT = "chat/completions"
    """OpenAI's chat completions: the format into which all others are translated."""
    TEXT = "completions"
    RESPONSES = "responses"
    """OpenAI's Responses, without storage."""
    RESPONSES_INPUT_TOKENS = "responses/input_tokens"
    """Length of the prompt of a Responses request."""
    RERANK = "rerank"
    """Jina's and Cohere's reranking: parsed and written in `worker.ranking`."""
    EMBEDDINGS = "embeddings"
    """OpenAI's embeddings: parsed and written in `worker.embedding`."""
    OLLAMA_CHAT = "ollama/chat"
    OLLAMA_GENERATE = "ollama/generate"
    OLLAMA_EMBED = "ollama/embed"
    OLLAMA_EMBEDDINGS = "ollama/embeddings"
    """Ollama's older API for the embedding of one text."""
    LM_STUDIO_CHAT = "lm-studio/chat"
    """LM Studio's own format, `/api/v1/chat`."""
    LM_STUDIO_V0_CHAT = "lm-studio/v0-chat"
    """OpenAI's format with statistics, like the next one."""
    LM_STUDIO_V0_TEXT = "lm-studio/v0-text"
    MESSAGES = "messages"
    """Anthropic's Messages."""
    COUNT_TOKENS = "messages/count_tokens"
    """Length of the prompt of a Messages request."""

    @property
    def is_text(self) -> bool:
        """True if its prompts never go through a chat template."""
        return self in (Dialect.TEXT, Dialect.LM_STUDIO_V0_TEXT)


ErrorForm = Callable[[dict[str, str], int], dict[str, Any]]
"""Builds the body of an error (type, message, code, optional param) with an HTTP status."""


def openai_error(error: dict[str, str], _status: int) -> dict[str, Any]:
    """Error in OpenAI's format, which all clients get unless they need another."""
    return {"error": error}


def anthropic_error(error: dict[str, str], status: int) -> dict[str, Any]:
    """Error in Anthropic's format, with our `code` added.

    Source of the types: Anthropic's API reference, "Errors".
    """
    other = "api_error" if status >= SERVER_ERROR else "invalid_request_error"
    return {"type": "error", "error": error | {"type": _ANTHROPIC_TYPES.get(status, other)}}


SERVER_ERROR = 500

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def ollama_error(error: dict[str, str], _status: int) -> dict[str, Any]:
    """Error in Ollama's format: a message only."""
    return {"error": error["message"]}


def error_form(path: str, *, anthropic: bool = False) -> ErrorForm:
    """The error format that the clients of a route expect.

    `anthropic`: true if the client declares that it uses Anthropic's API, which shares some paths
    with OpenAI's.
    """
    if f"{path}/".startswith("/v1/messages/") or (anthropic and path.startswith("/v1/")):
        return anthropic_error
    if path.startswith("/api/") and not path.startswith(("/api/v0/", "/api/v1/")):
        return ollama_error
    return openai_error

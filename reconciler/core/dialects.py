"""The APIs in which an instance can be asked, each with its path and its form of errors.

A dialect is written down in three places: here, in `worker.dialects` (what a request means, how the
answer is written), and in `api` (its route, and how it names its model).
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any


class Dialect(StrEnum):
    """A form of requests and answers; the value is its path below an instance."""

    CHAT = "chat/completions"
    """OpenAI's chat completions: the form into which every other one is translated."""
    TEXT = "completions"
    RESPONSES = "responses"
    """OpenAI's Responses, without the part that stores them."""
    RESPONSES_INPUT_TOKENS = "responses/input_tokens"
    """The length of the prompt of a response."""
    RERANK = "rerank"
    """Jina's and Cohere's reranking: read and written in `worker.ranking`."""
    EMBEDDINGS = "embeddings"
    """OpenAI's embeddings: read and written in `worker.embedding`."""
    OLLAMA_CHAT = "ollama/chat"
    OLLAMA_GENERATE = "ollama/generate"
    OLLAMA_EMBED = "ollama/embed"
    OLLAMA_EMBEDDINGS = "ollama/embeddings"
    """Ollama's embeddings of one text, before there was the one above."""
    LM_STUDIO_CHAT = "lm-studio/chat"
    """LM Studio's own form, `/api/v1/chat`."""
    LM_STUDIO_V0_CHAT = "lm-studio/v0-chat"
    """OpenAI's form with statistics, as is the next."""
    LM_STUDIO_V0_TEXT = "lm-studio/v0-text"
    MESSAGES = "messages"
    """Anthropic's messages."""
    COUNT_TOKENS = "messages/count_tokens"
    """The length of the prompt of Anthropic's messages."""

    @property
    def is_text(self) -> bool:
        """True if its prompts never go through a chat template."""
        return self in (Dialect.TEXT, Dialect.LM_STUDIO_V0_TEXT)


ErrorForm = Callable[[dict[str, str], int], dict[str, Any]]
"""Makes the body of an error (type, message, code, perhaps param) with that HTTP status."""


def openai_error(error: dict[str, str], _status: int) -> dict[str, Any]:
    """As OpenAI's clients know errors, and all others where there is no reason for another form."""
    return {"error": error}


def anthropic_error(error: dict[str, str], status: int) -> dict[str, Any]:
    """As Anthropic's clients know errors, with our `code` besides.

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
    """As Ollama's clients know errors: words."""
    return {"error": error["message"]}


def error_form(path: str, *, anthropic: bool = False) -> ErrorForm:
    """The form of errors that the clients of a route know.

    `anthropic`: true if the client says that it speaks Anthropic's API, some paths of which are
    OpenAI's too.
    """
    if f"{path}/".startswith("/v1/messages/") or (anthropic and path.startswith("/v1/")):
        return anthropic_error
    if path.startswith("/api/") and not path.startswith(("/api/v0/", "/api/v1/")):
        return ollama_error
    return openai_error

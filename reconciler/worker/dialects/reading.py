"""Request parsers by dialect. Each translates a body into a chat or text completion."""

from collections.abc import Callable
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.worker.dialects.lm_studio import reading as lm_studio_reading
from reconciler.worker.dialects.messages import reading as messages
from reconciler.worker.dialects.ollama import reading as ollama_reading
from reconciler.worker.dialects.responses import reading as responses
from reconciler.worker.dialects.translated import Translated

Read = Callable[[dict[str, Any]], Translated]
"""Translates a body. Raises `RequestError` with the client's name of the key."""


def _text(sent: dict[str, Any]) -> Translated:
    return Translated(sent, chat=False)


READERS: dict[Dialect, Read] = {
    Dialect.CHAT: Translated,
    Dialect.TEXT: _text,
    Dialect.RESPONSES: responses.read,
    Dialect.RESPONSES_INPUT_TOKENS: responses.read,
    Dialect.OLLAMA_CHAT: ollama_reading.read_chat,
    Dialect.OLLAMA_GENERATE: ollama_reading.read_generate,
    Dialect.LM_STUDIO_CHAT: lm_studio_reading.read,
    Dialect.LM_STUDIO_V0_CHAT: Translated,
    Dialect.LM_STUDIO_V0_TEXT: _text,
    Dialect.MESSAGES: messages.read,
    Dialect.COUNT_TOKENS: messages.read_to_count,
}

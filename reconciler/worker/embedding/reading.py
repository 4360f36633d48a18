"""Parsers of embeddings requests, by dialect."""

from collections.abc import Callable
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.worker.embedding import ollama, openai
from reconciler.worker.embedding.request import Wanted

Read = Callable[[dict[str, Any], dict[str, str]], Wanted]
"""Parses a body, given the checkpoint's prompts by name. Raises `RequestError` with the client's
name of the key."""

EMBEDDING_READERS: dict[Dialect, Read] = {
    Dialect.EMBEDDINGS: openai.read,
    Dialect.OLLAMA_EMBED: ollama.read_embed,
    Dialect.OLLAMA_EMBEDDINGS: ollama.read_embeddings,
}

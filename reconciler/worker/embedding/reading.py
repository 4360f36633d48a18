"""What a request for embeddings means, by dialect."""

from collections.abc import Callable
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.worker.embedding import ollama, openai
from reconciler.worker.embedding.request import Wanted

Read = Callable[[dict[str, Any], dict[str, str]], Wanted]
"""Takes a body and the checkpoint's prompts by name. Raises `RequestError` naming the key as the
client knows it."""

EMBEDDING_READERS: dict[Dialect, Read] = {
    Dialect.EMBEDDINGS: openai.read,
    Dialect.OLLAMA_EMBED: ollama.read_embed,
    Dialect.OLLAMA_EMBEDDINGS: ollama.read_embeddings,
}

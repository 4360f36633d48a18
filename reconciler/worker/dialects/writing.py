"""How an answer is written in each dialect."""

from reconciler.core.dialects import Dialect
from reconciler.worker.answers import Form
from reconciler.worker.dialects import messages, ollama, openai

FORMS: dict[Dialect, Form] = {
    Dialect.CHAT: openai.FORM,
    Dialect.TEXT: openai.FORM,
    Dialect.OLLAMA_CHAT: ollama.CHAT,
    Dialect.OLLAMA_GENERATE: ollama.GENERATE,
    Dialect.MESSAGES: messages.FORM,
    Dialect.COUNT_TOKENS: messages.COUNT_FORM,
}

"""How an answer is written in each dialect."""

from reconciler.core.dialects import Dialect
from reconciler.worker.answers import Form
from reconciler.worker.dialects import messages, openai
from reconciler.worker.dialects.responses import writing as responses

FORMS: dict[Dialect, Form] = {
    Dialect.CHAT: openai.FORM,
    Dialect.TEXT: openai.FORM,
    Dialect.RESPONSES: responses.FORM,
    Dialect.MESSAGES: messages.FORM,
    Dialect.COUNT_TOKENS: messages.COUNT_FORM,
}

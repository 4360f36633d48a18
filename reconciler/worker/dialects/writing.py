"""How an answer is written in each dialect."""

from reconciler.core.dialects import Dialect
from reconciler.worker.answers import Form
from reconciler.worker.dialects import openai

FORMS: dict[Dialect, Form] = {
    Dialect.CHAT: openai.FORM,
    Dialect.TEXT: openai.FORM,
}

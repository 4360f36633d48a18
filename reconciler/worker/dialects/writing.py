"""How an answer is written in each dialect."""

from reconciler.core.dialects import Dialect
from reconciler.worker.answers import Form
from reconciler.worker.dialects import openai
from reconciler.worker.dialects.responses import writing as responses

FORMS: dict[Dialect, Form] = {
    Dialect.CHAT: openai.FORM,
    Dialect.TEXT: openai.FORM,
    Dialect.RESPONSES: responses.FORM,
}

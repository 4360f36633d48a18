"""Response writers by dialect."""

from reconciler.core.dialects import Dialect
from reconciler.worker.answers import Form
from reconciler.worker.dialects.lm_studio import v0 as lm_studio_v0
from reconciler.worker.dialects.lm_studio import writing as lm_studio
from reconciler.worker.dialects.messages import writing as messages
from reconciler.worker.dialects.ollama import writing as ollama
from reconciler.worker.dialects.openai import writing as openai
from reconciler.worker.dialects.responses import writing as responses

FORMS: dict[Dialect, Form] = {
    Dialect.CHAT: openai.FORM,
    Dialect.TEXT: openai.FORM,
    Dialect.RESPONSES: responses.FORM,
    Dialect.RESPONSES_INPUT_TOKENS: responses.COUNT_FORM,
    Dialect.OLLAMA_CHAT: ollama.CHAT,
    Dialect.OLLAMA_GENERATE: ollama.GENERATE,
    Dialect.LM_STUDIO_CHAT: lm_studio.FORM,
    Dialect.LM_STUDIO_V0_CHAT: lm_studio_v0.FORM,
    Dialect.LM_STUDIO_V0_TEXT: lm_studio_v0.FORM,
    Dialect.MESSAGES: messages.FORM,
    Dialect.COUNT_TOKENS: messages.COUNT_FORM,
}

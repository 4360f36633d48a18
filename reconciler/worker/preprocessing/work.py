"""Process requests: the operations of a preprocessing process."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from reconciler.core.dialects import Dialect
from reconciler.worker import request as requests
from reconciler.worker.chat import bounded, rendering
from reconciler.worker.dialects.naming import renamed, reworded
from reconciler.worker.dialects.reading import READERS
from reconciler.worker.embedding.reading import EMBEDDING_READERS
from reconciler.worker.embedding.request import Texts, Tokenizing
from reconciler.worker.errors import RequestError
from reconciler.worker.preprocessing.messages import (
    Bind,
    Done,
    Embed,
    Failed,
    Learn,
    Paired,
    Prepare,
    Prepared,
    Rank,
    Refused,
    Render,
    Reply,
    Request,
    Setup,
    Text,
    Tokenized,
)
from reconciler.worker.preprocessing.tokenizer import BackendTokenizer
from reconciler.worker.prompt import Prompt, Prompts
from reconciler.worker.ranking.request import Ranking
from reconciler.worker.request import Body

RENDERING_SECONDS = 20.0
"""Time limit of all renderings of one request."""


def prepare(
    prompts: Prompts,
    data: bytes,
    defaults: Mapping[str, Any],
    most: int | None,
    dialect: Dialect = Dialect.CHAT,
) -> tuple[Body, Prompt]:
    """Parse a request and make its prompt. Raises `RequestError`."""
    translated = READERS[dialect](requests.decoded(data))
    if translated.untemplated is not None:
        with bounded.budget(RENDERING_SECONDS):
            translated = translated if prompts.takes_chats else translated.untemplated
    names = translated.names
    try:
        body = requests.of_keys(translated.sent, defaults, chat=translated.chat)
        body.reminders = translated.reminders
        body.deferred_tools = translated.deferred_tools
        with bounded.budget(RENDERING_SECONDS):
            prompt = prompts.build(body, most, chat=body.chat)
    except RequestError as error:
        raise renamed(error, names) from None
    body.dialect_data, body.names = translated.echo, names
    own = [reworded(warning, names) for warning in body.warnings]
    body.warnings = [*translated.warnings, *own][: requests.WARNINGS]
    warnings = tuple(reworded(warning, names) for warning in prompt.warnings)
    return body, replace(prompt, warnings=warnings)


def tokenize(tokenizing: Tokenizing, data: bytes, most: int | None, dialect: Dialect) -> Texts:
    """Parse an embeddings request and tokenize its texts. Raises `RequestError`."""
    sent = requests.decoded(data)
    return tokenizing.build(EMBEDDING_READERS[dialect](sent, tokenizing.prompts), most)


class Work:
    """State of a preprocessing process: the tokenizer, the model's prompts, compiled templates."""

    def __init__(self) -> None:
        self._tokenizer: BackendTokenizer | None = None
        self._prompts: Prompts | None = None
        self._tokenizing: Tokenizing | None = None
        self._renderers: dict[str, Callable[..., str]] = {}
        """Compiled templates by source: compiling one takes longer than rendering it."""

    def answer(self, request: Request) -> Reply:
        """Process a request. Raises nothing that a request can cause."""
        try:
            return self._answer(request)
        except RequestError as error:
            busy = bounded.is_running()
            return Refused(str(error), error.code, error.param, error.status, busy)
        except TimeoutError as error:
            return Failed(str(error), timed_out=True, busy=bounded.is_running())
        except Exception as error:  # noqa: BLE001  only this request fails
            words = f"{type(error).__name__}: {error}"[:500]
            return Failed(words, busy=bounded.is_running())

    def _answer(self, request: Request) -> Reply:
        match request:
            case Setup():
                self._tokenizer = BackendTokenizer(request)
            case Bind(embedder=embedder) if embedder is not None:
                self._tokenizing = Tokenizing(self._tokenizer, request.vocabulary, embedder)
            case Bind():
                self._prompts = Prompts(
                    self._tokenizer, request.vocabulary, rewinds=request.rewinds, learn=False
                )
            case Learn():
                with bounded.budget(RENDERING_SECONDS):
                    self._bound().learn()
            case Render():
                return self._render(request)
            case Prepare():
                return self._prepare(request)
            case Embed():
                if self._tokenizing is None:
                    raise RuntimeError("no embedding model is bound")
                texts = tokenize(self._tokenizing, request.body, request.most, request.dialect)
                return Tokenized(texts)
            case Rank():
                ranking = Ranking(self._tokenizer, request.reranker)
                return Paired(ranking.build(requests.decoded(request.body), request.most))
        return Done()

    def _bound(self) -> Prompts:
        if self._prompts is None:
            raise RuntimeError("no model is bound")
        return self._prompts

    def _render(self, request: Render) -> Text:
        render = self._renderers.get(request.source)
        if render is None:
            render = rendering.of_source(self._tokenizer, request.source)
            self._renderers[request.source] = render
        text = render(request.turns, **request.variables)
        if len(text) > request.most:
            raise ValueError(f"a short conversation renders to {len(text)} characters")
        return Text(text)

    def _prepare(self, request: Prepare) -> Prepared:
        body, prompt = prepare(
            self._bound(), request.body, request.defaults, request.most, request.dialect
        )
        # The worker does not need the fields that only the prompt is made from.
        body.continue_final_message = body.continues
        body.messages = body.prompt = body.tools = body.chat_template_kwargs = body.suffix = None
        body.system_prompt = body.tool_choice = None
        body.sent_tools, body.sent_variables, body.deferred_tools = [], [], []
        body.response_format = body.structured_outputs = (
            None  # already compiled into the constraint
        )
        body.guided_json = body.guided_regex = body.guided_choice = body.guided_grammar = None
        tools = msgspec.json.encode(prompt.tools)
        return Prepared(body, replace(prompt, tools=()), tools)

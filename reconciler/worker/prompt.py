"""Turn requests into prompts: chat template, tokenization and checks of the length."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.worker import reasoning
from reconciler.worker.beginning import common
from reconciler.worker.chat import messages as chats
from reconciler.worker.chat.template import Rendered, Template, Templates, templates_of
from reconciler.worker.chat.turns import REMINDS, Turn
from reconciler.worker.errors import RequestError, unsupported
from reconciler.worker.infill import infilling, marks_of
from reconciler.worker.request import MOST_PROMPTS, Body, no_variable, tools_as_sent
from reconciler.worker.sampling_parameters import no_token
from reconciler.worker.segments import Segmenter
from reconciler.worker.token_bounds import TokenBounds

VARIABLES = 16
"""Maximum variables of a request that are looked up in the template."""

CHARACTERS_PER_TOKEN = 32
"""Maximum length of a text to tokenize, per token of the context; ordinary text has 4.

A heuristic: a text with long runs of spaces may have more, if the vocabulary has tokens for them.
But the time to tokenize a run grows faster than its length: 8 MB of spaces took a minute."""

SHORT = 1_000_000
"""Length of texts that are tokenized under any context length [characters]: takes a second."""

_MARK = 32
"""Maximum length of a partial mark, such as `<|assistant|>`, at the end of a common prefix."""


@dataclass(frozen=True)
class Prompt:
    """The model's input, with the data for parsing its output."""

    tokens: list[int]
    generation: str = ""
    """The chat template's generation prompt; if an answer is continued, the answer so far; "" for
    text completions."""
    boundaries: tuple[int, ...] = ()
    """Positions at which the KV cache is worth saving [tokens]."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the model may call; empty with `tool_choice` none."""
    described: bool = False
    """True if a system turn added by this program describes the tools."""
    warnings: tuple[str, ...] = ()
    """Messages about keys of the request that have no effect on this model."""
    more: tuple[list[int], ...] = ()
    """Tokens of further prompts of the same text completion request."""
    texts: tuple[str, ...] = ()
    """Prompts as text, if the response echoes them."""
    ends: tuple[int, ...] = ()
    """Stop tokens in addition to the model's."""

    @property
    def all_tokens(self) -> tuple[list[int], ...]:
        """Tokens of each prompt."""
        return (self.tokens, *self.more)


class Prompts:
    """Builds the prompts of one checkpoint. Thread-safe."""

    def __init__(
        self, tokenizer: Any, vocabulary: int, *, rewinds: bool = False, learn: bool = True
    ) -> None:
        """`tokenizer`: mlx-lm's wrapper; `vocabulary`: upper bound of token ids; `rewinds`: True if
        the model's caches can be rewound to any token.

        With `learn`, a thread analyses the chat template at once; without, the template is analysed
        when it is first needed.
        """
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._templates: Templates | None = None
        self._segmenter = Segmenter(self._tokens, rewinds=rewinds)
        self._bounds = TokenBounds(tokenizer)
        self._marks: dict[str, int] | None = None
        """Fill-in-the-middle marks of the vocabulary, once a request has needed them."""
        self._lock = threading.Lock()
        self._learned = False
        if learn:
            threading.Thread(target=self.learn, name="chat template", daemon=True).start()

    def learn(self) -> None:
        """Analyse the chat template, unless that is done. Raises nothing."""
        with self._lock:
            if not self._learned:
                self._templates = templates_of(self._tokenizer)
                self._learned = True

    @property
    def takes_chats(self) -> bool:
        """True if the model has a chat template."""
        self.learn()
        return self._templates is not None

    def build(self, body: Body, most: int | None = None, *, chat: bool) -> Prompt:
        """Build the prompt; reject it early if it is certainly longer than `most` tokens.

        The time grows with the request's length: not for the event loop. Raises `RequestError`.
        """
        key = "messages" if chat else "prompt"
        self._check_bias(body)
        prompt = self._chat(body, most) if chat else self._text(body, most)
        for tokens in prompt.all_tokens:
            if most is not None and len(tokens) >= most:
                raise too_long(len(tokens), most, key)
            if not tokens:
                raise RequestError("the prompt is empty", "invalid_value", key)
            if any(not 0 <= token < self._vocabulary for token in tokens):
                raise RequestError("a token id is beyond the vocabulary", "invalid_value", key)
        return prompt

    def _check_bias(self, body: Body) -> None:
        """Raise `RequestError` for a bias of no valid token id. There may be a million biases."""
        wrong = no_token(body.logit_bias or (), self._vocabulary)
        if wrong is not None:
            words = f"logit_bias: {wrong[:40]} is not a token id from 0 to {self._vocabulary - 1}"
            raise RequestError(words, "invalid_value", "logit_bias")

    def _text(self, body: Body, most: int | None) -> Prompt:
        """Build the prompts of a text completion."""
        ends: tuple[int, ...] = ()
        prompts, texts = [], []
        for sent in _sent(body):
            tokens = self._sent_tokens(sent, body, most)
            if body.echo:
                texts.append(sent if isinstance(sent, str) else self._decoded(tokens))
            if body.suffix:
                plain = body.add_special_tokens is False or not isinstance(sent, str)
                begin = [] if plain else self._begin()
                tokens, ends = self._between(begin, tokens, body.suffix, most)
            prompts.append(tokens)
        return Prompt(prompts[0], more=tuple(prompts[1:]), texts=tuple(texts), ends=ends)

    def _sent_tokens(self, sent: str | list[int], body: Body, most: int | None) -> list[int]:
        """Tokens of a prompt, without the tokenizer's leading tokens if there is a suffix."""
        if not isinstance(sent, str):
            return [int(token) for token in sent]
        plain = body.add_special_tokens is False or bool(body.suffix)
        more = {"add_special_tokens": False} if plain else {}
        return self._encoded(sent, most, "prompt", **more)

    def _decoded(self, tokens: list[int]) -> str:
        if any(not 0 <= token < self._vocabulary for token in tokens):
            raise RequestError("a token id is beyond the vocabulary", "invalid_value", "prompt")
        return str(self._tokenizer.decode(tokens))

    def _between(
        self, begin: list[int], prefix: list[int], suffix: str, most: int | None
    ) -> tuple[list[int], tuple[int, ...]]:
        """Build a fill-in-the-middle prompt; return its tokens and its stop tokens."""

        def encode(text: str) -> list[int]:
            return self._encoded(text, most, "suffix", add_special_tokens=False)

        if self._marks is None:  # listing a vocabulary takes a tenth of a second
            self._marks = marks_of(self._tokenizer.get_vocab())
        found = infilling(self._marks, encode, begin, prefix, suffix)
        if found is None:
            words = (
                "suffix: this model's tokenizer has no marks for filling in the middle of a text; "
                "remove the key, or use a code model such as Qwen2.5-Coder"
            )
            raise unsupported("suffix", words)
        return found.tokens, tuple(end for end in found.ends if 0 <= end < self._vocabulary)

    def _begin(self) -> list[int]:
        """Tokens that the tokenizer adds before every text."""
        whole, text = (
            self._tokenizer.encode("a", add_special_tokens=special) for special in (True, False)
        )
        places = (at for at in range(len(whole)) if whole[at : at + len(text)] == text)
        return [int(token) for token in whole[: next(places, 0)]]

    def _chat(self, body: Body, most: int | None) -> Prompt:
        """Build a prompt by rendering the messages with the model's chat template."""
        if body.messages is None:
            raise RequestError("missing 'messages'", "missing_required_parameter", "messages")
        self.learn()
        if self._templates is None:
            words = "this model has no chat template; send a plain prompt to /v1/completions"
            raise RequestError(words, "unsupported_parameter", "messages")
        tools = tools_as_sent(body) if body.tool_choice != "none" else []
        template = self._templates.of(tools=bool(tools))
        source = "" if template.is_code else template.source
        variables, warnings = reasoning.variables(body, self._tokenizer, template.uses, source)
        special = getattr(self._tokenizer, "special_tokens_map", {})
        for name in body.chat_template_kwargs or {}:
            if name in special:
                raise no_variable(name)
        variables = template.known(variables) | (body.chat_template_kwargs or {})
        unused = [name for name in body.sent_variables[:VARIABLES] if not template.uses(name)]
        warnings += tuple(
            f"chat_template_kwargs.{name[:80]}: the model's chat template has no such variable; "
            "ignored"
            for name in unused
        )
        if body.continues:
            variables |= {"continue_final_message": True}
        elif body.add_generation_prompt is False:
            variables |= {"add_generation_prompt": False}
        turns = _turns(body)
        if most is not None:
            _check_length(sum(len(turn["content"]) for turn in turns), most, "messages")
        try:
            rendered = template.render(turns, tools, variables)
            generation = _generation(body, template, rendered)
        except TimeoutError as error:
            raise RequestError(str(error), "invalid_value", "messages") from None
        except Exception as error:  # noqa: BLE001  a template may raise anything
            reason = f"{type(error).__name__}: {error}"[:500]
            words = f"the model's chat template rejects these messages: {reason}"
            raise RequestError(words, "invalid_value", "messages") from None
        tokens = self._encoded(rendered.text, most, "messages", add_special_tokens=False)

        def later(turns: list[Turn]) -> str:
            more = variables | {"add_generation_prompt": False, "continue_final_message": False}
            return template.render(turns, tools, more).text

        places = self._segmenter.boundaries(
            rendered.text,
            tokens,
            turns,
            later,
            tools=bool(tools),
            reasons="think" in template.source or "reasoning" in template.source,
        )
        return Prompt(
            tokens,
            generation,
            places,
            tools=(*tools, *(body.deferred_tools if body.tool_choice != "none" else ())),
            described=rendered.described,
            warnings=warnings,
        )

    def _tokens(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def _encoded(self, text: str, most: int | None, key: str, **more: Any) -> list[int]:
        """Tokenize a text. Raises `RequestError` before tokenizing if it is certainly too long."""
        if most is not None and len(text) > most:
            _check_length(len(text), most, key)
            least = self._bounds.least(text)
            if least >= most:
                words = (
                    f"the prompt has {len(text)} characters, at least {least} tokens; the context "
                    f"length of this instance is {most}"
                )
                raise RequestError(words, "context_length_exceeded", key)
        return [int(token) for token in self._tokenizer.encode(text, **more)]


def _sent(body: Body) -> Sequence[str | list[int]]:
    """Get the prompts of a text completion. Raises `RequestError`."""
    prompt: Any = body.prompt
    if prompt is None:
        raise RequestError("missing 'prompt'", "missing_required_parameter", "prompt")
    if isinstance(prompt, str) or all(isinstance(part, int) for part in prompt):
        prompt = [prompt]
    elif any(isinstance(part, int) for part in prompt):
        words = "prompt: mixes token ids and texts; each prompt must be a text or a list of ids"
        raise RequestError(words, "invalid_value", "prompt")
    if len(prompt) * (body.n or 1) > MOST_PROMPTS:
        words = f"prompt: {len(prompt)} prompts with {body.n or 1} choices each are too many; "
        raise RequestError(f"{words}the maximum is {MOST_PROMPTS}", "invalid_value", "prompt")
    sent: Sequence[str | list[int]] = prompt
    return sent


def too_long(tokens: int, most: int, key: str) -> RequestError:
    """Error for a prompt that leaves no room for a completion."""
    words = (
        f"the prompt has {tokens} tokens; the context length of this instance is {most}, including "
        "at least 1 token for the completion"
    )
    return RequestError(words, "context_length_exceeded", key)


def _check_length(characters: int, most: int, key: str) -> None:
    """Raise `RequestError` for a text that is too long to tokenize."""
    longest = max(SHORT, CHARACTERS_PER_TOKEN * most)
    if characters > longest:
        words = (
            f"the prompt has {characters} characters; with the context length of this instance, "
            f"{most} tokens, no more than {longest} are accepted"
        )
        raise RequestError(words, "context_length_exceeded", key)


def _turns(body: Body) -> list[Turn]:
    turns = [chats.turn(message) for message in body.messages or []]
    for index in body.reminders:
        turns[index][REMINDS] = True
    system = (t for t in turns if t["role"] in ("system", "developer") and REMINDS not in t)
    if body.system_prompt and not any(system):
        turns.insert(0, {"role": "system", "content": body.system_prompt})
    return turns


def _generation(body: Body, template: Template, rendered: Rendered) -> str:
    """Text before the answer: the template's generation prompt, or the answer to continue."""
    if body.continues:
        return str(rendered.turns[-1]["content"])
    if body.add_generation_prompt is False:
        return ""
    text = rendered.text
    without = template.again(rendered, add_generation_prompt=False)
    return added(text, without)


def added(text: str, without: str) -> str:
    """Part of `text` after its common prefix with `without`.

    Marks are not split: a template may end a conversation with `<|end|>` instead of
    `<|assistant|>`.
    """
    if text.startswith(without):
        return text[len(without) :]
    low = common(text, without)
    for opening, closing in (("<", ">"), ("[", "]")):
        at = text.rfind(opening, max(0, low - _MARK), low)
        if at >= 0 and closing not in text[at:low]:
            low = at
    return text[low:]

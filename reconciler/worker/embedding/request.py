"""Embeddings requests: from a parsed body to the tokens of its texts.

A reader converts a body into a `Wanted`, with its API's names; the rest is the same for all APIs.
"""

from typing import Annotated, Any

import msgspec

from reconciler.core.embedder import QUERY, Embedder
from reconciler.worker.errors import RequestError
from reconciler.worker.request import WARNINGS
from reconciler.worker.token_bounds import TokenBounds

MAX_INPUTS = 2048
"""Maximum texts of one request, as in OpenAI's API."""

CHARACTERS_PER_TOKEN = 32
SHORT = 1_000_000
"""Characters that are always tokenized, as in `worker.prompt`."""


class Wanted(msgspec.Struct, kw_only=True):
    """A parsed embeddings request, valid by the rules of its API."""

    inputs: list[str | list[int]]
    key: str = "input"
    """Client's name of the key with the texts."""
    listed: bool = True
    """True if the client sent a list of texts, so that errors include the index."""
    dimensions: int | None = None
    base64: bool = False
    normalize: bool | None = None
    """True to scale vectors to length 1; None: use the checkpoint's setting."""
    prompt: str | None = None
    """Text to prepend to each input."""
    prompt_name: str | None = None
    """Name of the checkpoint's prompt to prepend to each input."""
    prompt_key: str = "prompt_name"
    """Client's name of the key that selects the prompt."""
    instruction: str | None = None
    """Replaces the task in the checkpoint's query prompt."""
    truncate: int | None = None
    """Maximum tokens before a text is truncated; 0: the context length. None: longer texts are
    rejected."""
    add_special_tokens: bool = True
    allow_empty: bool = False
    """True if a text may be empty."""
    echo: dict[str, Any] = msgspec.field(default_factory=dict)
    """Request fields that the response echoes or depends on, as plain JSON."""
    warnings: list[str] = msgspec.field(default_factory=list)
    """Warnings about ignored fields."""


class Texts(msgspec.Struct):
    """Tokenized texts, and the options for the response."""

    tokens: list[list[int]]
    skips: list[int]
    """Number of tokens at the beginning of each text that are not pooled."""
    dimensions: int
    normalized: bool
    base64: bool = False
    echo: dict[str, Any] = msgspec.field(default_factory=dict)
    warnings: list[str] = msgspec.field(default_factory=list)

    @property
    def count(self) -> int:
        """Total number of tokens."""
        return sum(map(len, self.tokens))


Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

Input = str | list[str | Token | list[Token]]


def inputs_of(value: Input, key: str) -> tuple[list[str | list[int]], bool]:
    """Split the input into texts or lists of token ids; True if the client sent a list of texts.

    Raises `RequestError`.
    """
    if isinstance(value, str):
        return [value], False
    if value and all(isinstance(one, int) for one in value):
        return [[one for one in value if isinstance(one, int)]], False
    if any(isinstance(one, int) for one in value):
        words = f"{key}: a list must contain only texts, only token ids, or only lists of token ids"
        raise RequestError(words, "invalid_value", key)
    return [one for one in value if not isinstance(one, int)], True


class Tokenizing:
    """Tokenizes the texts of requests for one checkpoint."""

    def __init__(self, tokenizer: Any, vocabulary: int, embedder: Embedder) -> None:
        """`tokenizer` is mlx-lm's or a `BackendTokenizer`; token ids are below `vocabulary`."""
        self._tokenizer, self._vocabulary, self._embedder = tokenizer, vocabulary, embedder
        self._bounds = TokenBounds(tokenizer)

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts of the checkpoint, by name."""
        return self._embedder.prompts

    def build(self, wanted: Wanted, most: int | None) -> Texts:
        """Tokenize all texts, each at most `most` tokens long. Raises `RequestError`."""
        embedder, key = self._embedder, wanted.key
        dimensions = wanted.dimensions or embedder.dimensions
        if dimensions > embedder.dimensions:
            words = f"dimensions {dimensions}: this model's vectors have only {embedder.dimensions}"
            raise RequestError(words, "invalid_value", "dimensions")
        if not 1 <= len(wanted.inputs) <= MAX_INPUTS:
            words = f"{key}: {len(wanted.inputs)} texts; 1 to {MAX_INPUTS} are allowed"
            raise RequestError(words, "invalid_value", key)
        prompt = self._prompt(wanted)
        skip = 0 if embedder.pools_prompt or not prompt else self._length_of_prompt(prompt, wanted)
        tokens, skips = [], []
        for index, one in enumerate(wanted.inputs):
            name = f"{key}[{index}]" if wanted.listed else key
            if isinstance(one, str):
                tokens.append(self._tokens(one, prompt, wanted, most, name))
                skips.append(min(skip, len(tokens[-1]) - 1))
            else:
                tokens.append(self._as_sent(one, wanted, most, name))
                skips.append(0)
        warnings = list(wanted.warnings)
        if prompt and not all(isinstance(one, str) for one in wanted.inputs):
            warnings.append(f"{key}: no prompt is prepended to token ids")
        normalized = embedder.normalized if wanted.normalize is None else wanted.normalize
        return Texts(
            tokens,
            skips,
            dimensions,
            normalized,
            wanted.base64,
            wanted.echo,
            warnings[:WARNINGS],
        )

    def _prompt(self, wanted: Wanted) -> str:
        """Text to prepend to each input."""
        prompts = self._embedder.prompts
        if wanted.prompt is not None:
            return wanted.prompt
        if wanted.instruction is not None:
            return _instructed(prompts.get(QUERY, ""), wanted.instruction)
        name = wanted.prompt_name
        if name is None:
            name = self._embedder.default_prompt
            return prompts[name] if name is not None else ""
        if name not in prompts:
            has = f"it has {', '.join(prompts)}" if prompts else "it has none"
            words = f"{wanted.prompt_key}: this model has no prompt {name[:80]!r}; {has[:500]}"
            raise RequestError(words, "invalid_value", wanted.prompt_key)
        return prompts[name]

    def _length_of_prompt(self, prompt: str, wanted: Wanted) -> int:
        """Number of tokens of the prompt alone, without those that the tokenizer appends."""
        alone = self._encode(prompt, wanted)
        return len(alone) - self._added_at_end(alone, wanted)

    def _added_at_end(self, tokens: list[int], wanted: Wanted) -> int:
        """Number of tokens at the end of `tokens` that the tokenizer appends to any text."""
        added = self._encode("", wanted)
        end = 0
        while end < min(len(added), len(tokens)) and added[-1 - end] == tokens[-1 - end]:
            end += 1
        return end

    def _tokens(
        self, text: str, prompt: str, wanted: Wanted, most: int | None, name: str
    ) -> list[int]:
        if not text and not wanted.allow_empty:
            raise RequestError(f"{name}: the text is empty", "invalid_value", name)
        text = prompt + text
        if self._embedder.lowercase:
            text = text.lower()
        limit = _smaller(most, wanted.truncate or None)
        if limit is not None:
            longest = max(SHORT, CHARACTERS_PER_TOKEN * limit)
            if wanted.truncate is not None:
                text = text[:longest]
            elif len(text) > longest or self._bounds.least(text) > limit:
                words = f"{name} has {len(text)} characters: more than {limit} tokens"
                raise _too_long(words, limit, name)
        tokens = self._encode(text, wanted)
        if limit is not None and len(tokens) > limit:
            if wanted.truncate is None:
                raise _too_long(f"{name} has {len(tokens)} tokens", limit, name)
            tokens = self._cut_off(tokens, limit, wanted)
        if not tokens:
            raise RequestError(f"{name}: the text has no tokens", "invalid_value", name)
        return self._checked(tokens, name)

    def _as_sent(self, tokens: list[int], wanted: Wanted, most: int | None, name: str) -> list[int]:
        """Validate token ids from the client, to which nothing is added."""
        if not tokens:
            raise RequestError(f"{name}: the list of token ids is empty", "invalid_value", name)
        limit = _smaller(most, wanted.truncate or None)
        if limit is not None and len(tokens) > limit:
            if wanted.truncate is None:
                raise _too_long(f"{name} has {len(tokens)} tokens", limit, name)
            tokens = tokens[:limit]
        return self._checked(tokens, name)

    def _checked(self, tokens: list[int], name: str) -> list[int]:
        if any(not 0 <= token < self._vocabulary for token in tokens):
            words = f"{name}: a token id is not below the vocabulary's size, {self._vocabulary}"
            raise RequestError(words, "invalid_value", name)
        return tokens

    def _encode(self, text: str, wanted: Wanted) -> list[int]:
        special = wanted.add_special_tokens
        return [int(t) for t in self._tokenizer.encode(text, add_special_tokens=special)]

    def _cut_off(self, tokens: list[int], limit: int, wanted: Wanted) -> list[int]:
        """Truncate the tokens, but keep those that the tokenizer appends to any text."""
        end = min(self._added_at_end(tokens, wanted), limit - 1)
        return tokens[: limit - end] + tokens[len(tokens) - end :]


def _instructed(prompt: str, instruction: str) -> str:
    """Replace the task in the query prompt, `Instruct: TASK\\nQuery:`, as in E5, Qwen3 and others.

    Raises `RequestError` for a model without such a prompt.
    """
    before, colon, rest = prompt.partition("Instruct: ")
    _, newline, after = rest.partition("\n")
    if before or not colon or not newline:
        words = "instruction: this model has no prompt 'Instruct: ...'; send `prompt`"
        raise RequestError(words, "unsupported_parameter", "instruction")
    return f"{colon}{instruction}{newline}{after}"


def _smaller(one: int | None, other: int | None) -> int | None:
    both = [n for n in (one, other) if n is not None]
    return min(both, default=None)


def _too_long(words: str, limit: int, name: str) -> RequestError:
    words = f"{words}; the longest text of this instance has {limit} (`truncate` shortens texts)"
    return RequestError(words, "context_length_exceeded", name)

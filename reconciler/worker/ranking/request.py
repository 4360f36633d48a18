"""Reranking requests in Jina's and Cohere's form, converted to one prompt per document.

Sources: the API references of Jina (`/v1/rerank`) and Cohere (`/v2/rerank`), and vLLM's types.
"""

from typing import Annotated, Any

import msgspec

from reconciler.core.reranker import Reranker
from reconciler.worker.errors import RequestError, unsupported
from reconciler.worker.request import WARNINGS

MAX_DOCUMENTS = 1000
"""Maximum documents of one request; Cohere's limit."""

LONGEST = 1_000_000
"""Maximum characters of a document, which take a second to tokenize."""


class Pairs(msgspec.Struct):
    """Prompts, and the options for the response."""

    prompts: list[list[int]]
    """Token ids of one prompt per document."""
    yes: int
    no: int
    top_n: int
    documents: list[str] | None = None
    """Documents to echo in the response."""
    warnings: list[str] = msgspec.field(default_factory=list)


class _Document(msgspec.Struct):
    text: str


class _Body(msgspec.Struct):
    query: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
    documents: Annotated[
        list[str | _Document], msgspec.Meta(min_length=1, max_length=MAX_DOCUMENTS)
    ]
    model: str | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool | None = None
    instruction: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    truncate: bool | None = None
    max_tokens_per_doc: Annotated[int, msgspec.Meta(ge=1)] | None = None
    ttl: float | None = None


_DECODER = msgspec.json.Decoder(_Body)
"""Prepares the type at import: if two threads prepare it at first use, msgspec crashes."""

_HARMLESS = {"user", "metadata", "request_id", "priority", "max_chunks_per_doc"}

_REFUSED = ("rank_fields", "mm_processor_kwargs", "chat_template", "truncate_prompt_tokens")


class Ranking:
    """Makes the prompts of query-document pairs for one checkpoint."""

    def __init__(self, tokenizer: Any, reranker: Reranker) -> None:
        """`tokenizer` is mlx-lm's or a `BackendTokenizer`."""
        self._tokenizer, self._reranker = tokenizer, reranker

    def build(self, sent: dict[str, Any], most: int | None) -> Pairs:
        """Make the prompts, each leaving one of the `most` tokens for the answer.

        Raises `RequestError`.
        """
        for key in _REFUSED:
            if sent.get(key) not in (None, "", 0, [], {}, -1):
                raise unsupported(key, f"{key} is not supported for reranking; leave it out")
        unknown = [k for k in sent if k not in {*_Body.__struct_fields__, *_HARMLESS, *_REFUSED}]
        body = _body(sent)
        facts = self._reranker
        start, end = self._tokens(facts.before), self._tokens(facts.after)
        room = None if most is None else most - 1 - len(start) - len(end)
        least = len(self._pair(body, ""))
        if room is not None and least >= room:
            words = f"query: the prompt with it has {len(start) + least + len(end)} tokens; "
            raise RequestError(words + _limit(most), "context_length_exceeded", "query")
        texts = [one if isinstance(one, str) else one.text for one in body.documents]
        longest = _smaller(room, _plus(least, body.max_tokens_per_doc))
        prompts = []
        for index, text in enumerate(texts):
            tokens = self._checked(text, f"documents[{index}]", body, room, most)
            prompts.append([*start, *tokens[:longest], *end])
        return Pairs(
            prompts,
            self._one(facts.yes),
            self._one(facts.no),
            min(body.top_n or len(texts), len(texts)),
            None if body.return_documents is False else texts,
            [f"{name[:80]}: unknown key, ignored" for name in unknown[:WARNINGS]],
        )

    def _pair(self, body: _Body, document: str) -> list[int]:
        """Tokenize the query with a document."""
        default = self._reranker.instruction
        instruction = default if body.instruction is None else body.instruction
        parts = {"instruction": instruction, "query": body.query, "document": document}
        return self._tokens(self._reranker.pair.format(**parts))

    def _checked(
        self, text: str, key: str, body: _Body, room: int | None, most: int | None
    ) -> list[int]:
        """Tokenize the query with a document, truncated if allowed. Raises `RequestError`."""
        if not text:
            raise RequestError(f"{key}: the text is empty", "invalid_value", key)
        cut_off = body.truncate or body.max_tokens_per_doc is not None
        if len(text) > LONGEST and not cut_off:
            words = f"{key} has {len(text)} characters; {_limit(most)}"
            raise RequestError(words, "context_length_exceeded", key)
        tokens = self._pair(body, text[:LONGEST])
        if room is not None and len(tokens) > room and not cut_off:
            words = f"{key}: the pair with it has {len(tokens)} tokens, but only {room} fit"
            raise RequestError(f"{words}; {_limit(most)}", "context_length_exceeded", key)
        return tokens

    def _tokens(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def _one(self, word: str) -> int:
        """Token id of an answer. Raises `RequestError` if it is more than one token."""
        tokens = self._tokens(word)
        if len(tokens) != 1:
            words = f"the answer {word!r} of this reranker is not one token of its tokenizer"
            raise RequestError(words, "unsupported_model", "model")
        return tokens[0]


def _smaller(one: int | None, other: int | None) -> int | None:
    both = [n for n in (one, other) if n is not None]
    return min(both, default=None)


def _plus(one: int, other: int | None) -> int | None:
    return None if other is None else one + other


def _limit(most: int | None) -> str:
    return f"the context length of this instance is {most} (`truncate` shortens documents)"


def _body(sent: dict[str, Any]) -> _Body:
    for key in ("query", "documents"):
        if sent.get(key) is None:
            raise RequestError(f"missing '{key}'", "missing_required_parameter", key)
    known = {k: v for k, v in sent.items() if k in _Body.__struct_fields__ and v is not None}
    try:
        return msgspec.convert(known, _Body)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        raise RequestError(f"{param or 'the body'}: {words}", "invalid_value", param) from None

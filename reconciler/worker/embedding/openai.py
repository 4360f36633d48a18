"""Parse embeddings requests in OpenAI's form, with the extensions of other servers.

Sources: OpenAI's API reference; the request types of vLLM (`truncate_prompt_tokens`, `normalize`,
`add_special_tokens`), text-embeddings-inference (`prompt_name`, `truncate`, `normalize`), NVIDIA's
NIM and Voyage (`input_type`, `truncate`), Jina (`task`, `normalized`).
"""

from typing import Annotated, Any, Literal

import msgspec

from reconciler.core.embedder import QUERY
from reconciler.core.embedding_keys import ACTS, HARMLESS, REFUSED, is_neutral
from reconciler.worker.embedding.request import Input, Wanted, inputs_of
from reconciler.worker.errors import RequestError, unsupported
from reconciler.worker.request import WARNINGS

Text = Annotated[str, msgspec.Meta(max_length=10_000)]

Name = Annotated[str, msgspec.Meta(max_length=200)]


class _Body(msgspec.Struct):
    input: Input
    model: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    normalize: bool | None = None
    prompt: Text | None = None
    prompt_name: Name | None = None
    input_type: Name | None = None
    instruction: Text | None = None
    truncate: bool | Literal["NONE", "END"] | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    add_special_tokens: bool | None = None


_DECODER = msgspec.json.Decoder(_Body)
"""Prepares the type at import: if two threads prepare it at first use, msgspec crashes."""

_PROMPT_KEYS = ("prompt", "prompt_name", "input_type", "instruction")

_QUERIES = {"query", "search_query", "retrieval.query"}
_DOCUMENTS = {"document", "passage", "search_document", "retrieval.passage"}
"""Values of `input_type` and `task` that several providers use."""

_DOCUMENT_PROMPTS = ("document", "passage")


def read(sent: dict[str, Any], prompts: dict[str, str]) -> Wanted:
    """Parse a body. `prompts` are the checkpoint's. Raises `RequestError`."""
    if sent.get("input") is None:
        raise RequestError("missing 'input'", "missing_required_parameter", "input")
    for key, neutral in REFUSED.items():
        if not is_neutral(sent.get(key), neutral):
            raise unsupported(key, f"{key} is not supported for embeddings; leave it out")
    asked, names, warnings = _folded(sent)
    try:
        body = msgspec.convert(asked, _Body)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        key = param.partition("[")[0]
        param = names.get(key, key) + param.removeprefix(key)
        raise RequestError(f"{param or 'the body'}: {words}", "invalid_value", param) from None
    chosen = [names[key] for key in _PROMPT_KEYS if key in asked]
    if len(chosen) > 1:
        words = f"{chosen[1]}: cannot be combined with {chosen[0]}; send one of them"
        raise RequestError(words, "invalid_value", chosen[1])
    inputs, listed = inputs_of(body.input, "input")
    name = body.prompt_name
    if body.input_type is not None:
        name = _prompt_of(body.input_type, prompts, names["input_type"])
    plain = body.input_type is not None and name is None
    return Wanted(
        inputs=inputs,
        listed=listed,
        dimensions=body.dimensions,
        base64=body.encoding_format == "base64",
        normalize=body.normalize,
        prompt="" if plain else body.prompt,
        prompt_name=name,
        prompt_key=chosen[0] if chosen else "prompt_name",
        instruction=body.instruction,
        truncate=_truncate(body),
        add_special_tokens=body.add_special_tokens is not False,
        warnings=warnings[:WARNINGS],
    )


def _folded(sent: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Normalize the keys of a body.

    Returns the values under one name for each key, the name that the client used for it, and
    warnings about ignored keys.
    """
    asked: dict[str, Any] = {}
    names: dict[str, str] = {}
    known = {*HARMLESS, *REFUSED}
    for key, aliases in ACTS.items():
        known |= {key, *aliases}
        given = [name for name in (key, *aliases) if sent.get(name) is not None]
        if given:
            value = sent[given[0]]
            whole = isinstance(value, float) and value.is_integer()
            asked[key], names[key] = int(value) if whole else value, given[0]
    unknown = [name for name in sent if name not in known][:WARNINGS]
    return asked, names, [f"{name[:80]}: unknown key, ignored" for name in unknown]


def _prompt_of(input_type: str, prompts: dict[str, str], key: str) -> str | None:
    """Name of the prompt for texts of this type; None if there is none. Raises `RequestError`."""
    asked = input_type.lower()
    if asked in prompts:
        return asked
    if asked in _QUERIES:
        return QUERY if QUERY in prompts else None
    if asked in _DOCUMENTS:
        return next((name for name in _DOCUMENT_PROMPTS if name in prompts), None)
    words = f"{key}: {input_type[:80]!r} is not query, document or the name of a prompt"
    raise RequestError(words, "invalid_value", key)


def _truncate(body: _Body) -> int | None:
    tokens = body.truncate_prompt_tokens
    if tokens:
        return max(0, tokens)
    return 0 if body.truncate in (True, "END") else None

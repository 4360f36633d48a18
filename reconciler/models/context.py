"""Maximum context length of a checkpoint, in tokens.

With rope scaling, publishers use two conventions. Some give the extended length as
`max_position_embeddings` (DeepSeek, gpt-oss, Llama 3.1, Phi-3, Gemma 3). Others give the training
length there, and the extended one is `original_max_position_embeddings` x `factor` (Qwen's
instructions for YaRN) or, without that key, `max_position_embeddings` x `factor` (transformers'
convention for linear and dynamic scaling). This module uses the larger of the two.
"""

from collections.abc import Iterator, Mapping
from typing import Any

MAX_TOKENS = 1 << 40
"""Exclusive upper bound, above any real context length; a larger number is an error in the file."""

CONTEXT_KEYS = (
    "model_max_length",  # Command-R: beside a smaller max_position_embeddings
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "max_seq_length",
    "max_context_length",
    "seq_length",
    "sequence_len",
)

NESTED = ("text_config", "llm_config", "language_config")
"""Keys under which multi-part models keep the language model's configuration."""

_EXTENDED_ALREADY = ("gemma3", "gemma3_text")
"""Families that use linear scaling and give the extended length."""

_BY_ORIGINAL = ("yarn", "deepseek_yarn", "telechat3-yarn", "longrope", "su", "linear", "dynamic")
"""Scaling types whose factor gives the extension. llama3's does not: Llama 3.2 has 8,192 x 32 and a
context length of 131,072."""

_BY_MAXIMUM = ("yarn", "deepseek_yarn", "telechat3-yarn", "linear", "dynamic")


def max_context(
    config: Mapping[str, Any], fields: Mapping[str, Any], tokenizer_limit: object
) -> int | None:
    """The context length; None if neither the files nor the architecture give one.

    `fields` are the architecture's keys with their defaults (`architectures.fields`).
    `tokenizer_limit` is tokenizer_config.json's `model_max_length`.
    """
    parts = [config[key] for key in NESTED if isinstance(config.get(key), dict)]
    for part in (*parts, config):
        for key in CONTEXT_KEYS:
            if length := _tokens(part.get(key)):
                return _extended(length, (part, config), fields, tokenizer_limit)
    for key in CONTEXT_KEYS:
        if length := _tokens(fields.get(key)):
            return _extended(length, (*parts, config), fields, tokenizer_limit)
    return None


def _tokens(value: object) -> int:
    """Return a number of tokens; 0 for any other value."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_TOKENS:
        return value
    return 0


def _extended(
    length: int,
    parts: tuple[Mapping[str, Any], ...],
    fields: Mapping[str, Any],
    tokenizer_limit: object,
) -> int:
    """`length`, or the length that rope scaling extends it to."""
    already = any(part.get("model_type") in _EXTENDED_ALREADY for part in parts)
    longest = length
    for scaling, original in _scalings(parts, fields):
        kind = scaling.get("type") or scaling.get("rope_type")
        factor = scaling.get("factor")
        if not isinstance(factor, int | float) or not 1 < factor < MAX_TOKENS:
            continue
        if original and kind in _BY_ORIGINAL:
            longest = max(longest, int(original * factor))
        elif not original and kind in _BY_MAXIMUM and not already:
            product, limit = int(length * factor), _tokens(tokenizer_limit)
            longest = max(longest, limit if length <= limit < product else product)
    return longest if longest < MAX_TOKENS else length


def _scalings(
    parts: tuple[Mapping[str, Any], ...], fields: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Scalings that the architecture applies, each with its original length, or 0 if unknown."""
    for part in parts:
        for key in ("rope_scaling", "rope_parameters"):
            found = part.get(key)
            if not isinstance(found, dict) or (fields and key not in fields):
                continue
            # transformers 5 has one scaling for each kind of layer.
            inner = [value for value in found.values() if isinstance(value, dict)]
            for scaling in (found, *inner):
                own = _tokens(scaling.get("original_max_position_embeddings"))
                yield scaling, own or _tokens(part.get("original_max_position_embeddings"))

"""Keys of an embeddings request and their handling; the docs' tables are generated from them."""

from typing import Any

ACTS: dict[str, tuple[str, ...]] = {
    "model": (),
    "input": (),
    "dimensions": ("output_dimension",),
    "encoding_format": (),
    "prompt_name": (),
    "input_type": ("task",),
    "instruction": (),
    "prompt": (),
    "normalize": ("normalized", "embd_normalize"),
    "truncate": ("truncation",),
    "truncate_prompt_tokens": (),
    "add_special_tokens": (),
    "ttl": (),
}
"""Keys by name, with their aliases."""

MEANINGS = {
    "model": "the instance, or a model with a loaded instance",
    "input": "a text, a list of up to 2,048 texts, the token ids of a text, or a list of those",
    "dimensions": "truncate each vector to this many dimensions and normalize it again",
    "encoding_format": "`float`, or `base64`: little-endian float32",
    "prompt_name": "name of the checkpoint's prompt to prepend to each text",
    "input_type": "`query`, `document`, or the name of a prompt",
    "instruction": "the task of queries, for models with a prompt `Instruct: …`",
    "prompt": 'a text to prepend to each text; `""`: none',
    "normalize": "true: vectors of unit length; false: vectors as computed",
    "truncate": "true or `END`: truncate texts that are too long, which are refused otherwise",
    "truncate_prompt_tokens": "truncate texts to this many tokens; -1: as `truncate`",
    "add_special_tokens": "false: without the special tokens that the tokenizer adds",
    "ttl": "seconds without a request before a model that this request loads is unloaded",
}

HARMLESS = (
    *("user", "metadata", "store", "safety_identifier", "service_tier"),
    *("request_id", "rid", "priority", "keep_alive", "provider", "tags", "trace", "session_id"),
)

REFUSED: dict[str, tuple[Any, ...]] = {
    "messages": (),
    "late_chunking": (),
    "embedding_type": ("float",),
    "embedding_types": (["float"],),
    "output_dtype": ("float",),
    "embed_dtype": ("float32", "float"),
    "endianness": ("little", "native"),
    "bytes_only": (),
    "truncation_direction": ("right", "Right"),
    "truncation_side": ("right",),
    "stream": (),
    "mm_processor_kwargs": (),
    "chat_template": (),
    "chat_template_kwargs": (),
}
"""Refused keys, with the values that have no effect, besides null and empty ones."""

_NOTHING: tuple[Any, ...] = (None, 0, "", [], {})


def is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """True if the value of a refused key has no effect; false equals 0."""
    return value in _NOTHING or value in neutral

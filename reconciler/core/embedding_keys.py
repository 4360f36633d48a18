"""Keys of a request for embeddings: what is done with each. The docs' tables are made from this."""

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
"""By name, each with its aliases."""

MEANINGS = {
    "model": "the instance, or a model of which one is loaded",
    "input": "a text, a list of up to 2,048, the token ids of one, or a list of those",
    "dimensions": "the first so many numbers of each vector, brought to length 1 again",
    "encoding_format": "`float`, or `base64`: little-endian float32",
    "prompt_name": "which of the checkpoint's prompts goes before each text",
    "input_type": "`query`, `document`, or the name of a prompt",
    "instruction": "the task of queries, for models with a prompt `Instruct: …`",
    "prompt": 'a text before each text; `""`: none',
    "normalize": "false: vectors as they are; true: of length 1",
    "truncate": "true or `END`: cut off what is too long, which is refused otherwise",
    "truncate_prompt_tokens": "cut off after so many tokens; -1: as `truncate`",
    "add_special_tokens": "false: without the tokens that the tokenizer adds",
    "ttl": "seconds without a request after which a model that this one loads is unloaded",
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
"""Each with the values, beside null and empty ones, that ask for nothing."""

_NOTHING: tuple[Any, ...] = (None, 0, "", [], {})


def is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """True if the value of a refused key asks for nothing; false equals 0."""
    return value in _NOTHING or value in neutral

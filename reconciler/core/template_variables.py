"""Names that are no variables of a chat template, wherever variables are given to one.

A template is filled in by a function whose other parameters would change what it does (another
template, a cut prompt), and by the names that Jinja and the rendering define themselves. Variables
come from requests, load requests and manifests; all of them are held to this list, which
`defaults.schema.json` repeats.
"""

MAX_DEPTH = 50
"""Levels of lists and mappings in a manifest, in a load request, and in variables of a request."""

_FUNCTION = (
    # transformers' apply_chat_template, and what it hands on to the tokenizer
    *("self", "conversation", "conversations", "messages", "tools", "documents", "chat_template"),
    *("add_generation_prompt", "continue_final_message", "tokenize", "sanitize_control_tokens"),
    *("padding", "padding_side", "pad_to_multiple_of", "truncation", "max_length", "stride"),
    *("add_special_tokens", "is_split_into_words", "split_special_tokens", "text", "text_pair"),
    *("text_target", "text_pair_target", "verbose", "kwargs", "template_kwargs"),
    *("tokenizer_kwargs", "processor_kwargs"),
)

_SPECIAL = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    *("additional_special_tokens", "extra_special_tokens"),
)

_JINJA = (
    *("range", "dict", "lipsum", "cycler", "joiner", "namespace", "loop", "super", "caller"),
    *("varargs", "true", "false", "none", "True", "False", "None"),
    *("raise_exception", "strftime_now", "environment", "context"),
)

RESERVED = frozenset((*_FUNCTION, *_SPECIAL, *_JINJA))

PREFIXES = ("return_", "_")


def reserved(name: str) -> bool:
    """True if a template cannot be given a variable of that name."""
    return name in RESERVED or name.startswith(PREFIXES)

"""Names that cannot be set as variables of a chat template.

A template is rendered by a function whose other parameters would change its effect (another
template, a truncated prompt), and Jinja and the renderer define names themselves. Variables come
from requests, load requests and manifests; all of them are checked against this list, which
`defaults.schema.json` repeats.
"""

MAX_DEPTH = 50
"""Maximum nesting of lists and mappings in a manifest, a load request, or a request's variables."""

_FUNCTION = (
    # transformers' apply_chat_template, and the arguments that it passes to the tokenizer
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
    """True if a variable of that name cannot be passed to a template."""
    return name in RESERVED or name.startswith(PREFIXES)

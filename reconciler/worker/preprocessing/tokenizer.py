"""A tokenizer that does not need transformers, whose import takes seconds and 100 MB.

A tokenizer of transformers is a set of options around a tokenizer of the `tokenizers` library.
Serializing that one with the options that affect prompts gives the same tokens in another process.
"""

from typing import Any

from tokenizers import Tokenizer

from reconciler.worker.chat import rendering
from reconciler.worker.preprocessing.messages import Setup

_TRANSFORMERS = (
    "transformers.tokenization_utils_base",
    "transformers.tokenization_utils_tokenizers",
)
"""Modules whose implementations of `_METHODS` a `BackendTokenizer` reproduces."""

_METHODS = ("encode", "_encode_plus", "set_truncation_and_padding")


def describe(tokenizer: Any) -> Setup | None:
    """Serialize mlx_lm's `tokenizer` so that another process can make the same prompts.

    Returns None if it is impossible: the tokenizer or its chat template is Python code.
    """
    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    backend = getattr(inner, "backend_tokenizer", None)
    defined = (getattr(getattr(type(inner), name, None), "__module__", "") for name in _METHODS)
    if backend is None or any(module not in _TRANSFORMERS for module in defined):
        return None
    if tokenizer.has_chat_template and rendering.is_code(tokenizer):
        return None
    try:
        serialized = backend.to_str()
    except Exception:  # noqa: BLE001  raised for parts that are Python code
        return None
    return Setup(
        serialized,
        bool(inner.split_special_tokens),
        tokenizer.chat_template,
        bool(tokenizer.has_chat_template),
        bool(tokenizer.has_thinking),
        dict(tokenizer.special_tokens_map),
    )


class BackendTokenizer:
    """The subset of a tokenizer that prompts need, without transformers."""

    renders_by_jinja = True

    def __init__(self, setup: Setup) -> None:
        """Raises the exceptions of the `tokenizers` library."""
        self.backend_tokenizer = Tokenizer.from_str(setup.backend)
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.encode_special_tokens = setup.splits_special
        self.chat_template = setup.chat_template
        self.has_chat_template = setup.has_chat_template
        self.has_thinking = setup.has_thinking
        self.special_tokens_map = setup.special_tokens

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Convert a text to token ids."""
        (encoding,) = self.backend_tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Convert token ids, all within the vocabulary, to text; special tokens are included."""
        text: str = self.backend_tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def get_vocab(self) -> dict[str, int]:
        """Token ids by text, added tokens included."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

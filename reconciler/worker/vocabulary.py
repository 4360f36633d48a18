"""Fetch the vocabulary of a tokenizer once while it is loaded.

mlx_lm and the detection of output formats ask for it four times. For 150,000 tokens, that is a
quarter of the CPU time of loading the tokenizer. The rest is spent in the `tokenizers` library and
in parsing tokenizer.json.

transformers' `PreTrainedTokenizerFast(tokenizer_file=...)` would be no faster, and is not the same:
classes such as `Qwen2Tokenizer` replace parts of the tokenizer that the file describes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from mlx_lm import tokenizer_utils

MAX_ID = 4_000_000
"""Maximum id of a token. The largest published vocabularies have 300,000 tokens."""


def check_ids(tokenizer: Any) -> None:
    """Raise ValueError if a token has an id above `MAX_ID`.

    The `tokenizers` library and mlx_lm make lists of all ids up to the highest one: an id of 10^9
    would take minutes and gigabytes.
    """
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest > MAX_ID:
        raise ValueError(f"tokenizer.json: a token has the id {highest}; the maximum is {MAX_ID}")


@contextmanager
def vocabulary_kept() -> Iterator[None]:
    """Keep the vocabulary of each tokenizer that mlx_lm loads within the block until its end.

    Callers of `get_vocab` share one dictionary, and must not change it. Not for two threads at
    once.
    """
    auto = tokenizer_utils.AutoTokenizer
    loaded: list[Any] = []

    def from_pretrained(*args: Any, **options: Any) -> Any:
        tokenizer = auto.from_pretrained(*args, **options)
        tokenizer.get_vocab = cache(tokenizer.get_vocab)
        check_ids(tokenizer)
        loaded.append(tokenizer)
        return tokenizer

    tokenizer_utils.AutoTokenizer = SimpleNamespace(from_pretrained=from_pretrained)
    try:
        yield
    finally:
        tokenizer_utils.AutoTokenizer = auto
        for tokenizer in loaded:
            del tokenizer.get_vocab

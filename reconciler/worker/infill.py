"""Fill-in-the-middle: the prompt of an answer that stands between a text and its suffix.

A model that was trained for it has marks in its vocabulary, and was shown the texts around a gap in
one order: prefix, suffix, middle (PSM) or suffix, prefix, middle (SPM). Which marks a vocabulary
has says which family it is of. Nothing else says whether the model was trained so: where a family
shares its tokenizer, such as Qwen's, models that are not for code answer anyhow.

Sources of the marks and orders: the model cards of Qwen2.5-Coder, StarCoder2, SantaCoder,
DeepSeek-Coder, CodeGemma, Granite and Seed-Coder; Meta's `infilling_prompt_tokens` for Code Llama;
`encode_fim` of mistral-common for Codestral.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Encode = Callable[[str], list[int]]
"""Text -> its tokens, without special tokens."""

PREFIX, SUFFIX = "{prefix}", "{suffix}"


@dataclass(frozen=True)
class Family:
    """How models of a family are asked."""

    parts: tuple[str, ...]
    """Marks, and `PREFIX` and `SUFFIX` where the texts stand."""
    ends: tuple[str, ...] = ()
    """Marks that end an answer besides the model's own end tokens, if the vocabulary has them."""
    bare_suffix: bool = False
    """True if the suffix has no space put before it, as SentencePiece puts one before a text."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks that a vocabulary of the family has."""
        return tuple(part for part in self.parts if part not in (PREFIX, SUFFIX))


FAMILIES: dict[str, Family] = {
    "Qwen2.5-Coder, CodeGemma, Granite": Family(
        ("<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>"),
    ),
    "StarCoder, Granite Code, StableCode": Family(
        ("<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"),
        ("<fim_pad>", "<file_sep>", "<repo_name>", "<|endoftext|>"),
    ),
    "SantaCoder": Family(
        ("<fim-prefix>", PREFIX, "<fim-suffix>", SUFFIX, "<fim-middle>"),
        ("<fim-pad>", "<|endoftext|>"),
    ),
    "DeepSeek-Coder": Family(
        ("<｜fim▁begin｜>", PREFIX, "<｜fim▁hole｜>", SUFFIX, "<｜fim▁end｜>"),
        ("<|EOT|>", "<｜end▁of▁sentence｜>"),
    ),
    "Code Llama": Family(
        ("▁<PRE>", PREFIX, "▁<SUF>", SUFFIX, "▁<MID>"), ("▁<EOT>",), bare_suffix=True
    ),
    "Codestral": Family(("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX), bare_suffix=True),
    "Seed-Coder": Family(
        ("<[fim-suffix]>", SUFFIX, "<[fim-prefix]>", PREFIX, "<[fim-middle]>"),
        ("<[end▁of▁sentence]>",),
    ),
}

MARKER = "☺"
"""A character that is one token after the space that SentencePiece puts before a text, or bytes."""


@dataclass(frozen=True)
class Infilling:
    """The prompt of an answer in the middle."""

    tokens: list[int]
    ends: tuple[int, ...]
    """Tokens that end it besides the model's own."""


def marks_of(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """What of a vocabulary matters here: the tokens of marks that it has."""
    known = (mark for one in FAMILIES.values() for mark in (*one.marks, *one.ends))
    return {mark: vocabulary[mark] for mark in known if mark in vocabulary}


def infilling(
    marks: Mapping[str, int],
    encode: Encode,
    begin: Sequence[int],
    prefix: Sequence[int],
    suffix: str,
) -> Infilling | None:
    """The prompt of an answer between `prefix`, in tokens, and `suffix`; None: no family has these
    marks, which are those of a vocabulary.

    `begin`: tokens that every text begins with.
    """
    families = (one for one in FAMILIES.values() if all(mark in marks for mark in one.marks))
    found = next(families, None)
    if found is None:
        return None
    after = _bare(encode, suffix) if found.bare_suffix else encode(suffix)
    texts = {PREFIX: list(prefix), SUFFIX: after}
    tokens = list(begin)
    for part in found.parts:
        tokens += texts[part] if part in texts else [marks[part]]
    return Infilling(tokens, tuple(marks[end] for end in found.ends if end in marks))


def _bare(encode: Encode, text: str) -> list[int]:
    """The tokens of a text as if something stood before it."""
    alone, together = encode(MARKER), encode(MARKER + text)
    if together[: len(alone)] != alone:  # a token reaches across
        return encode(text)
    return together[len(alone) :]

"""Fill-in-the-middle (FIM): prompts for a completion between a prefix and a suffix.

A model trained for FIM has special tokens (marks) for it in its vocabulary, and was trained on one
order: prefix, suffix, middle (PSM) or suffix, prefix, middle (SPM). The marks in the vocabulary
identify the family. Nothing else shows that a model was trained for FIM: if a family shares its
tokenizer, as Qwen's does, its models that are not for code accept FIM requests as well.

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
    """FIM prompt format of a model family."""

    parts: tuple[str, ...]
    """Parts of the prompt, in order: marks, `PREFIX` and `SUFFIX`."""
    ends: tuple[str, ...] = ()
    """Marks in the vocabulary that end a completion in addition to the model's stop tokens."""
    bare_suffix: bool = False
    """True if the suffix is encoded without the space that SentencePiece puts before a text."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks that every vocabulary of the family has."""
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
"""A character that, after SentencePiece's leading space, is encoded as one token or as bytes."""


@dataclass(frozen=True)
class Infilling:
    """A FIM prompt."""

    tokens: list[int]
    ends: tuple[int, ...]
    """Stop tokens in addition to the model's."""


def marks_of(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Token ids of the marks that a vocabulary has."""
    known = (mark for one in FAMILIES.values() for mark in (*one.marks, *one.ends))
    return {mark: vocabulary[mark] for mark in known if mark in vocabulary}


def infilling(
    marks: Mapping[str, int],
    encode: Encode,
    begin: Sequence[int],
    prefix: Sequence[int],
    suffix: str,
) -> Infilling | None:
    """Build the prompt for a completion between `prefix`, in tokens, and `suffix`.

    `marks`: the marks of the model's vocabulary; `begin`: tokens that begin every text. Returns
    None if no family has these marks.
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
    """Encode a text without the leading space that SentencePiece adds."""
    alone, together = encode(MARKER), encode(MARKER + text)
    if together[: len(alone)] != alone:  # a token spans the boundary
        return encode(text)
    return together[len(alone) :]

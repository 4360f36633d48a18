"""Lower bound of a text's tokens, from its length and the tokenizer's parts, without tokenizing.

No token is longer than the longest one of the vocabulary. That gives a bound unless a part of the
tokenizer shortens texts without limit: some normalizers and pre-tokenizers drop characters, and
some models make one unknown token of any run of unknown characters. Only parts that are known not
to do so are accepted; with any other part there is no bound.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec
from tokenizers import pre_tokenizers

COMPOSED = 4
"""Maximum characters, or bytes, that a normalizer combines into one: alpha with three accents."""

_COMPOSING = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}

_GROWING = {"ByteLevel", "Prepend"}

_SPLITTING = {"ByteLevel", "Digits", "Metaspace"}

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


class _Model(msgspec.Struct):
    type: str = "BPE"
    vocab: Any = None
    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False


class _Added(msgspec.Struct):
    content: str
    lstrip: bool = False
    rstrip: bool = False


class _Parts(msgspec.Struct):
    """Relevant parts of a tokenizer.json."""

    model: _Model
    added_tokens: list[_Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


class TokenBounds:
    """Lower bounds of texts' tokens, for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Bounds use `tokenizer.backend_tokenizer`, of the `tokenizers` library, if it exists."""
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)

    def least(self, text: str) -> int:
        """Number of tokens that the text has at least; 0 if there is no bound."""
        longest, spaces = self._known
        if not longest:
            return 0
        size = len(text) if spaces else sum(map(len, text.split()))
        return size // longest

    @cached_property
    def _known(self) -> tuple[int, bool]:
        """Maximum characters of a token, 0 if unknown, and True if white space counts."""
        try:
            parts = msgspec.json.decode(self._backend.to_str(), type=_Parts)
        except Exception:  # noqa: BLE001  Python code, or an unknown format
            return 0, False
        return _longest(parts), not any(one.lstrip or one.rstrip for one in parts.added_tokens)


def _longest(parts: _Parts) -> int:
    """Maximum characters of a text that one token can represent; 0: no limit.

    In a vocabulary of bytes, a token of n bytes represents at most n characters.
    """
    model, vocabulary = parts.model, parts.model.vocab
    if model.type != "BPE" or not isinstance(vocabulary, dict):
        return 0
    normalizers = list(_members(parts.normalizer, "normalizers"))
    splitters = list(_members(parts.pre_tokenizer, "pretokenizers"))
    if not all(map(_keeps, normalizers)) or not all(map(_splits, splitters)):
        return 0
    if not _knows_all(model, [*normalizers, *splitters]):
        return 0
    composing = sum(part.get("type") in _COMPOSING for part in normalizers)
    texts = [*vocabulary, *(one.content for one in parts.added_tokens)]
    return int(max(map(len, texts), default=0) * COMPOSED**composing)


def _members(part: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """Yield the parts of a sequence, or the part itself."""
    if part is None:
        return
    if part.get("type") != "Sequence":
        yield part
        return
    for member in part[key]:
        yield from _members(member, key)


def _keeps(normalizer: dict[str, Any]) -> bool:
    """True if a normalizer shortens a text by no more than a factor of `COMPOSED`."""
    kind = normalizer.get("type")
    if kind == "Replace":
        replaced = normalizer["pattern"].get("String")
        return replaced is not None and len(normalizer["content"]) >= len(replaced)
    return kind in _COMPOSING or kind in _GROWING


def _splits(pre_tokenizer: dict[str, Any]) -> bool:
    """True if a pre-tokenizer drops no characters."""
    if pre_tokenizer.get("type") in ("Split", "Punctuation"):
        return pre_tokenizer.get("behavior") != "Removed"
    return pre_tokenizer.get("type") in _SPLITTING


def _knows_all(model: _Model, parts: list[dict[str, Any]]) -> bool:
    """True if every character has a token, or an unknown token of its own."""
    if any(part.get("type") == "ByteLevel" for part in parts):
        return bool(model.vocab.keys() >= set(pre_tokenizers.ByteLevel.alphabet()))
    if model.byte_fallback and model.vocab.keys() >= _BYTES:
        return True
    return bool(model.unk_token in model.vocab) and not model.fuse_unk

"""Tokens of a checkpoint as bytes, in llguidance's form."""

from typing import Any

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer, _byte_decoder

from reconciler.worker.constraints.grammar import special_tokens


class TokenTable:
    """Tokenizer interface of llguidance, which reads the attributes."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Any, ends: list[int], vocabulary: int) -> None:
        """`tokenizer`: mlx_lm's. `ends`: the model's stop tokens, at least one.

        `vocabulary`: number of tokens in the table, regardless of the tokenizer's.
        """
        special = {t: content for t, content in special_tokens(tokenizer) if t < vocabulary}
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted({*special, *ends})
        self.tokens = _bytes(tokenizer)[:vocabulary]
        self.tokens += [b""] * (vocabulary - len(self.tokens))
        for token, content in special.items():
            self.tokens[token] = content.encode()

    def __call__(self, text: Any) -> list[int]:
        """Tokenize a text to force its tokens; all of our grammars disable that."""
        raise NotImplementedError


def _bytes(tokenizer: Any) -> list[bytes]:
    """Return the bytes that each token adds to a text in mlx_lm's detokenizer; b"" if it adds none
    or is not text on its own.
    """
    ids = list(range(max(tokenizer.get_vocab().values(), default=-1) + 1))
    kind = type(tokenizer.detokenizer)
    if issubclass(kind, BPEStreamingDetokenizer):
        decoder = _byte_decoder()
        return [_byte_level(word, decoder) for word in _words(tokenizer, ids)]
    if issubclass(kind, SPMStreamingDetokenizer):
        return [_byte_fallback(word) for word in _words(tokenizer, ids)]
    return [_decoded(tokenizer, token) for token in ids]


def _words(tokenizer: Any, ids: list[int]) -> list[str]:
    """Return the tokens as written in the vocabulary; "" for ids without a token."""
    known = {token: word for word, token in tokenizer.get_vocab().items()}
    return [known.get(token, "") for token in ids]


def _byte_level(word: str, decoder: dict[str, int]) -> bytes:
    try:
        return bytes(decoder[character] for character in word)
    except KeyError:  # an added token, whose text is not encoded
        return word.encode("utf-8", "replace")


def _byte_fallback(word: str) -> bytes:
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        return bytes([int(word[3:5], 16)])
    return word.replace("\u2581", " ").encode("utf-8", "replace")


def _decoded(tokenizer: Any, token: int) -> bytes:
    """Return the text that a token adds to a preceding one; b"" for a part of a character."""
    try:
        before = tokenizer.decode([token])
        text = tokenizer.decode([token, token])
    except Exception:  # noqa: BLE001  a token that is in no text
        return b""
    added = text[len(before) :]
    return b"" if "\ufffd" in added else str(added).encode("utf-8", "replace")

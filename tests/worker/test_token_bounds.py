"""Test that lower bounds of token counts hold for any kind of tokenizer."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from reconciler.worker.token_bounds import TokenBounds
from tests.tiny import new_tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())

TEXTS = st.text(
    st.sampled_from("a \n=\u03b1\u0313\u0300\u0345e\u0301\U0001f600\u1100\u1161"), max_size=60
)


def byte_level(*merged: str, normalizer: Any = None, added: tuple[AddedToken, ...] = ()) -> Any:
    """A tokenizer of bytes, with tokens for some longer texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=BYTES, show_progress=False, max_token_length=40
    )
    tokenizer.train_from_iterator([text * 3 for text in merged], trainer)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(list(added))
    return tokenizer


def other(model: Any, pre_tokenizer: Any = None, normalizer: Any = None) -> Any:
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


VOCABULARY = {letter: i for i, letter in enumerate("a =\n")}
FALLBACK = VOCABULARY | {f"<0x{b:02X}>": 4 + b for b in range(256)}

PROVEN = {
    "bytes": byte_level("aaaa", "    ", "===="),
    "composing": byte_level("aaaa", normalizer=normalizers.NFC()),
    "compatible": byte_level(
        "e", normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "stripping": byte_level("a", added=(AddedToken("=", lstrip=True, rstrip=True, special=True),)),
    "fallback": other(models.BPE(FALLBACK, [], byte_fallback=True)),
    "unknown": other(models.BPE(VOCABULARY, [], unk_token="=")),
}

UNPROVEN = {
    "accents": byte_level("a", normalizer=normalizers.StripAccents()),
    "replaced": byte_level("a", normalizer=normalizers.Replace(Regex("a+"), "")),
    "shortened": byte_level("a", normalizer=normalizers.Replace("aa", "")),
    "removed": other(
        models.BPE(FALLBACK, [], byte_fallback=True), pre_tokenizers.WhitespaceSplit()
    ),
    "split": other(
        models.BPE(FALLBACK, [], byte_fallback=True), pre_tokenizers.Split("a", "removed")
    ),
    "fused": other(models.BPE(VOCABULARY, [], unk_token="=", fuse_unk=True)),
    "dropped": other(models.BPE(VOCABULARY, [])),
    "some bytes": other(models.BPE(VOCABULARY, []), pre_tokenizers.ByteLevel(use_regex=False)),
    "pieces": other(models.Unigram([("a", -1.0), ("<unk>", -2.0)], unk_id=1)),
    "words": other(models.WordLevel({"a": 0, "=": 1}, unk_token="=")),
    "subwords": other(models.WordPiece({"a": 0, "=": 1}, unk_token="=")),
}


def bounds(tokenizer: Any) -> TokenBounds:
    return TokenBounds(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


@pytest.mark.parametrize("name", PROVEN)
@settings(max_examples=60)
@given(TEXTS)
@example("\u03b1\u0313\u0300\u0345" * 20)
@example(" " * 40 + "=" + " " * 40)
@example("\u2126" * 30)
def test_no_text_has_fewer_tokens_than_its_bound(name: str, text: str) -> None:
    tokenizer = PROVEN[name]
    count = len(tokenizer.encode(text, add_special_tokens=False).ids)
    assert bounds(tokenizer).least(text) <= count


@pytest.mark.parametrize("name", PROVEN)
def test_a_long_text_has_a_bound(name: str) -> None:
    assert bounds(PROVEN[name]).least("xyz " * 10_000) > 100


@pytest.mark.parametrize("name", UNPROVEN)
def test_a_tokenizer_that_drops_text_has_no_bound(name: str) -> None:
    assert bounds(UNPROVEN[name]).least("\u0301a b" * 10_000) == 0


def test_a_tokenizer_without_a_backend_has_no_bound() -> None:
    assert TokenBounds(object()).least("a" * 1_000_000) == 0
    assert TokenBounds(new_tokenizer()).least("b" * 1_000_000) > 1000

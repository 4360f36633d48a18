"""Test infill prompts, in the order that each family was trained on."""

import json
from functools import cache
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from reconciler.worker.infill import FAMILIES, Family, infilling
from reconciler.worker.prompt import Prompts
from reconciler.worker.request import RequestError, parse

PREFIX, SUFFIX = "def f(x):\n    ", "\n    return  x"

DOCUMENTED = {
    "Qwen2.5-Coder": "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
    "CodeGemma": "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
    "StarCoder": "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
    "SantaCoder": "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",
    "DeepSeek-Coder": "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
    "Codestral": "[SUFFIX]{suffix}[PREFIX]{prefix}",
    "Seed-Coder": "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",
}
"""Prompts as the publishers' model cards write them."""


def of_publisher(publisher: str) -> Family:
    return next(one for names, one in FAMILIES.items() if publisher in names)


@cache
def byte_level(*marks: str, begin: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with marks, like Qwen's or DeepSeek's."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    more = [begin] if begin else []
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in (*marks, *more)])
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentencepiece(*marks: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before a text, like Llama's and Mistral's."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {t: i for i, t in enumerate(["<s>", "▁", "▁▁", "▁r", "▁d", "\n", "☺", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "▁"), ("▁", "r"), ("▁", "d")]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in ("<s>", *marks)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def asked(tokenizer: Any, **keys: Any) -> Any:
    body = {"model": "m", "prompt": PREFIX, "suffix": SUFFIX} | keys
    prompts = Prompts(tokenizer, len(tokenizer.get_vocab()), learn=False)
    return prompts.build(parse(json.dumps(body).encode(), chat=False), 4096, chat=False)


@pytest.mark.parametrize("publisher", DOCUMENTED)
def test_a_prompt_equals_that_of_the_publishers_model_card(publisher: str) -> None:
    family = of_publisher(publisher)
    tokenizer = byte_level(*family.marks, *family.ends[:1])
    prompt = asked(tokenizer)
    expected = DOCUMENTED[publisher].format(prefix=PREFIX, suffix=SUFFIX)
    assert tokenizer.decode(prompt.tokens) == expected
    assert prompt.tokens == tokenizer.encode(expected)
    assert prompt.ends == tuple(tokenizer.convert_tokens_to_ids(list(family.ends[:1])))


def test_a_prefix_begins_like_any_other_text_of_the_model() -> None:
    family = of_publisher("DeepSeek")
    tokenizer = byte_level(*family.marks, begin="<begin>")
    assert tokenizer.decode(asked(tokenizer).tokens).startswith("<begin><｜fim▁begin｜>def")
    assert tokenizer.decode(asked(tokenizer, add_special_tokens=False).tokens).startswith("<｜fim")
    ids = tokenizer.encode(PREFIX)
    assert asked(tokenizer, prompt=ids).tokens[1 : len(ids) + 1] == ids


def test_code_llamas_suffix_has_no_leading_space() -> None:
    """`infilling_prompt_tokens` in Meta's codellama/llama/generation.py."""
    marks = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    tokenizer = sentencepiece(*marks)
    pre, suf, mid, eot = tokenizer.convert_tokens_to_ids(list(marks))
    prompt = asked(tokenizer, prompt="def", suffix="return")
    assert tokenizer.convert_ids_to_tokens(prompt.tokens) == [
        *("<s>", "▁<PRE>", "▁d", "e", "f", "▁<SUF>", *"return", "▁<MID>")
    ]
    assert (prompt.tokens[1], prompt.ends) == (pre, (eot,))
    assert {suf, mid} < set(prompt.tokens)


def test_codestrals_suffix_comes_first_and_has_no_leading_space() -> None:
    """`encode_fim` in mistral-common's tokens/tokenizers/instruct.py."""
    tokenizer = sentencepiece("[SUFFIX]", "[PREFIX]", "[MIDDLE]")
    tokens = tokenizer.convert_ids_to_tokens(asked(tokenizer, prompt="def", suffix="return").tokens)
    assert tokens == ["<s>", "[SUFFIX]", *"return", "[PREFIX]", "▁d", "e", "f"]


def test_each_of_several_prompts_has_the_suffix() -> None:
    family = of_publisher("Qwen2.5-Coder")
    tokenizer = byte_level(*family.marks)
    prompt = asked(tokenizer, prompt=["a", "b"], n=2)
    texts = [tokenizer.decode(tokens) for tokens in prompt.all_tokens]
    assert texts == [DOCUMENTED["Qwen2.5-Coder"].format(prefix=p, suffix=SUFFIX) for p in "ab"]


def test_a_tokenizer_without_all_marks_of_a_family_is_refused_with_a_message() -> None:
    assert infilling({"<fim_prefix>": 1, "<fim_middle>": 2}, lambda _: [], [], [], "x") is None
    with pytest.raises(RequestError, match="no marks for filling in the middle") as raised:
        asked(byte_level("<fim_prefix>"))
    assert (raised.value.status, raised.value.param) == (400, "suffix")


def test_a_suffix_counts_towards_the_context_length() -> None:
    family = of_publisher("Qwen2.5-Coder")
    with pytest.raises(RequestError) as raised:
        asked(byte_level(*family.marks), suffix="x" * 5000)
    assert raised.value.code == "context_length_exceeded"

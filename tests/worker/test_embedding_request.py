"""Test how the body of an embedding request is read and its texts are tokenized."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.embedder import Embedder
from reconciler.core.embedding_keys import ACTS, HARMLESS, MEANINGS, REFUSED
from reconciler.worker.embedding import openai
from reconciler.worker.embedding.request import MAX_INPUTS, Texts, Tokenizing
from reconciler.worker.errors import RequestError
from tests.embedders import PROMPTS, QUERY

END = 99
MOST = 20


class Letters:
    """A tokenizer with a token for each letter, and an end token after each text."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        tokens = [ord(letter) % 90 for letter in text]
        return [*tokens, END] if add_special_tokens else tokens


EMBEDDER = Embedder(("lasttoken",), 8, prompts={"query": "q: ", "document": ""})


def build(embedder: Embedder = EMBEDDER, most: int | None = MOST, **body: Any) -> Texts:
    tokenizing = Tokenizing(Letters(), 100, embedder)
    return tokenizing.build(openai.read(body, embedder.prompts), most)


def refusal(embedder: Embedder = EMBEDDER, **body: Any) -> tuple[str, str | None, str]:
    with pytest.raises(RequestError) as error:
        build(embedder, **body)
    return error.value.code, error.value.param, str(error.value)


def letters(text: str) -> list[int]:
    return Letters().encode(text)


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [
        ("ab", [letters("ab")]),
        (["ab", "c"], [letters("ab"), letters("c")]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["ab", [3]], [letters("ab"), [3]]),
    ],
)
def test_texts_and_token_ids_are_accepted(sent: Any, tokens: list[list[int]]) -> None:
    """An end token is added to texts, and nothing to token ids."""
    assert build(input=sent).tokens == tokens


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([[1], []], "input[1]"),
        ([1, "a"], "input"),
        ([1, [2]], "input"),
        ([-1], "input[0]"),
        ([100], "input"),
        ([[1], [100]], "input[1]"),
        ([True], "input[0]"),
        (5, "input"),
        ({"a": 1}, "input"),
        ([1.5], "input[0]"),
        (["a"] * (MAX_INPUTS + 1), "input"),
    ],
)
def test_a_refused_input_is_reported_by_its_place(sent: Any, param: str) -> None:
    assert refusal(input=sent)[:2] == ("invalid_value", param)


def test_a_request_without_input_is_refused() -> None:
    assert refusal()[:2] == ("missing_required_parameter", "input")
    assert refusal(input=None)[:2] == ("missing_required_parameter", "input")


@pytest.mark.parametrize(
    ("keys", "prompt"),
    [
        ({}, ""),
        ({"prompt_name": "query"}, "q: "),
        ({"prompt_name": "document"}, ""),
        ({"prompt": "p"}, "p"),
        ({"input_type": "query"}, "q: "),
        ({"input_type": "search_query"}, "q: "),
        ({"task": "retrieval.query"}, "q: "),
        ({"input_type": "passage"}, ""),
    ],
)
def test_a_prompt_precedes_each_text(keys: dict[str, Any], prompt: str) -> None:
    assert build(input=["ab", "c"], **keys).tokens == [letters(prompt + t) for t in ("ab", "c")]


def test_a_requested_prompt_replaces_the_default_one() -> None:
    embedder = Embedder(("mean",), 8, prompts={"query": "q: "}, default_prompt="query")
    assert build(embedder, input="ab").tokens == [letters("q: ab")]
    assert build(embedder, input="ab", prompt="").tokens == [letters("ab")]
    assert build(embedder, input="ab", input_type="document").tokens == [letters("ab")]


def test_an_instruction_replaces_the_models_own() -> None:
    embedder = Embedder(("lasttoken",), 8, prompts=PROMPTS)
    expected = QUERY.replace(
        "Given a web search query, retrieve relevant passages that answer the query", "Sort"
    )
    (tokens,) = build(embedder, 1000, input="ab", instruction="Sort").tokens
    assert tokens == letters(f"{expected}ab")
    assert refusal(input="ab", instruction="Sort")[:2] == ("unsupported_parameter", "instruction")


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"prompt_name": "x"}, "prompt_name"),
        ({"input_type": "x"}, "input_type"),
        ({"task": "x"}, "task"),
        ({"prompt_name": "query", "prompt": "a"}, "prompt_name"),
        ({"dimensions": 9}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"output_dimension": "a"}, "output_dimension"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate": "START"}, "truncate"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"normalize": "yes"}, "normalize"),
    ],
)
def test_a_refused_value_is_reported_under_the_key_that_was_sent(
    keys: dict[str, Any], param: str
) -> None:
    assert refusal(input="a", **keys)[:2] == ("invalid_value", param)


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_that_would_change_the_answer_and_is_unsupported_is_refused(key: str) -> None:
    sent: dict[str, Any] = {"input": "a", key: "something"}
    assert refusal(**sent)[:2] == ("unsupported_parameter", key)
    for neutral in (None, *REFUSED[key]):
        assert build(**sent | {key: neutral}).warnings == []


def test_unknown_keys_are_reported_and_harmless_ones_are_not() -> None:
    assert build(input="a", colour=1).warnings == ["colour: unknown key, ignored"]
    harmless: dict[str, Any] = dict.fromkeys(HARMLESS, "x")
    assert build(input="a", **harmless).warnings == []
    many: dict[str, Any] = {f"k{n}": n for n in range(1000)}
    assert len(build(input="a", **many).warnings) == 16


def test_every_key_with_an_effect_has_a_meaning() -> None:
    assert list(ACTS) == list(MEANINGS)


def test_a_text_that_is_too_long_is_reported_by_its_place() -> None:
    code, param, words = refusal(input=["a", "b" * MOST])
    assert (code, param) == ("context_length_exceeded", "input[1]")
    assert f"has {MOST + 1} tokens; the longest text of this instance has {MOST}" in words
    assert refusal(input=[[1] * 21])[:2] == ("context_length_exceeded", "input[0]")
    assert refusal(input="a" * 2_000_000)[:2] == ("context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("keys", "length"),
    [
        ({"truncate": True}, MOST),
        ({"truncate": "END"}, MOST),
        ({"truncation": True}, MOST),
        ({"truncate_prompt_tokens": -1}, MOST),
        ({"truncate_prompt_tokens": 5}, 5),
        ({"truncate_prompt_tokens": 500}, MOST),
    ],
)
def test_a_text_is_truncated_before_its_end_token(keys: dict[str, Any], length: int) -> None:
    texts = build(input=["b" * 100, "a"], **keys)
    assert texts.tokens == [[*letters("b" * 100)[: length - 1], END], letters("a")]
    assert build(input=[[1] * 100], **keys).tokens == [[1] * length]


def test_a_huge_text_is_truncated_before_it_is_tokenized() -> None:
    lengths: list[int] = []

    class Counted(Letters):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            lengths.append(len(text))
            return super().encode(text, add_special_tokens=add_special_tokens)

    wanted = openai.read({"input": "b" * 3_000_000, "truncate": True}, {})
    texts = Tokenizing(Counted(), 100, EMBEDDER).build(wanted, MOST)
    assert (len(texts.tokens[0]), max(lengths)) == (MOST, 1_000_000)


@pytest.mark.parametrize("pools_prompt", [True, False])
def test_the_tokens_of_a_prompt_are_excluded_if_the_model_requires_it(pools_prompt: bool) -> None:
    embedder = Embedder(("mean",), 8, prompts={"query": "q: "}, pools_prompt=pools_prompt)
    expected = [0, 0] if pools_prompt else [3, 3]
    assert build(embedder, input=["ab", "c"], prompt_name="query").skips == expected
    assert build(embedder, input=["ab", "c"]).skips == [0, 0]
    assert build(embedder, input=["ab", [1]], prompt_name="query").skips == [expected[0], 0]


def test_token_ids_get_no_prompt_and_a_warning() -> None:
    texts = build(input=[[1], [2]], prompt_name="query")
    assert (texts.tokens, texts.warnings) == (
        [[1], [2]],
        ["input: no prompt is prepended to token ids"],
    )


def test_the_encoding_and_dimensions_are_read() -> None:
    texts = build(input="ab", dimensions=4.0, encoding_format="base64", normalize=False)
    assert (texts.dimensions, texts.base64, texts.normalized) == (4, True, False)
    assert build(input="ab", add_special_tokens=False).tokens == [letters("ab")[:-1]]
    plain = build(input="ab")
    assert (plain.dimensions, plain.base64, plain.normalized, plain.count) == (8, False, True, 3)


def test_texts_are_lower_cased_if_the_model_requires_it() -> None:
    embedder = Embedder(("mean",), 8, lowercase=True)
    assert build(embedder, input="AB").tokens == [letters("ab")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*ACTS, *REFUSED, *HARMLESS, "x"]), JSON), JSON)
def test_any_input_becomes_tokens_or_an_error_with_a_message(
    body: dict[str, Any], texts: Any
) -> None:
    for sent in (body, body | {"input": texts}, body | {"input": ["a", "b"]}):
        with suppress(RequestError):
            made = Tokenizing(Letters(), 100, EMBEDDER).build(openai.read(sent, PROMPTS), MOST)
            pairs = list(zip(made.tokens, made.skips, strict=True))
            assert pairs
            assert all(1 <= len(one) <= MOST and 0 <= skip < len(one) for one, skip in pairs)

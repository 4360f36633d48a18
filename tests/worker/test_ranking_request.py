"""Test how the body of a rerank request is read and its pairs become prompts."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.reranker import QWEN3, Reranker
from reconciler.worker.errors import RequestError
from reconciler.worker.ranking.request import MAX_DOCUMENTS, Pairs, Ranking
from tests.worker.test_embedding_request import JSON

MARKS = Reranker("<", "{instruction}?{query}!{document}", ">", "i", "y", "n")


class Letters:
    """A tokenizer with a token for each letter."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]


def build(most: int | None = 100, **body: Any) -> Pairs:
    return Ranking(Letters(), MARKS).build(body, most)


def refusal(**body: Any) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as error:
        build(**body)
    return error.value.code, error.value.param


def texts(pairs: Pairs) -> list[str]:
    return ["".join(map(chr, prompt)) for prompt in pairs.prompts]


def test_each_document_has_a_prompt_with_the_query() -> None:
    pairs = build(query="q", documents=["a", {"text": "b"}])
    assert texts(pairs) == ["<i?q!a>", "<i?q!b>"]
    assert (pairs.yes, pairs.no, pairs.top_n) == (ord("y"), ord("n"), 2)
    assert pairs.documents == ["a", "b"]


def test_the_options_of_the_response_are_read() -> None:
    pairs = build(query="q", documents=["a", "b"], top_n=1, return_documents=False)
    assert (pairs.top_n, pairs.documents) == (1, None)
    assert build(query="q", documents=["a"], top_n=9).top_n == 1
    assert texts(build(query="q", documents=["a"], instruction="s")) == ["<s?q!a>"]
    assert build(query="q", documents=["a"], colour=1, user="u").warnings == [
        "colour: unknown key, ignored"
    ]


def test_the_prompt_of_qwen3_reranker_equals_that_of_its_model_card() -> None:
    class Whole(Letters):
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            if text in ("yes", "no"):
                return [1]
            return super().encode(text, add_special_tokens=add_special_tokens)

    pairs = Ranking(Whole(), QWEN3).build({"query": "Q", "documents": ["D"]}, None)
    expected = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
        "answer the query\n<Query>: Q\n<Document>: D<|im_end|>\n<|im_start|>assistant\n<think>\n\n"
        "</think>\n\n"
    )
    assert texts(pairs) == [expected]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "query"),
        ({"query": "q"}, "missing_required_parameter", "documents"),
        ({"query": "", "documents": ["a"]}, "invalid_value", "query"),
        ({"query": "q", "documents": []}, "invalid_value", "documents"),
        ({"query": "q", "documents": "a"}, "invalid_value", "documents"),
        ({"query": "q", "documents": ["a", ""]}, "invalid_value", "documents[1]"),
        ({"query": "q", "documents": ["a", {"x": 1}]}, "invalid_value", "documents[1]"),
        (
            {"query": "q", "documents": ["a"] * (MAX_DOCUMENTS + 1)},
            "invalid_value",
            "documents",
        ),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "invalid_value", "top_n"),
        (
            {"query": "q", "documents": ["a"], "rank_fields": ["x"]},
            "unsupported_parameter",
            "rank_fields",
        ),
        ({"query": "q", "documents": ["a", "b" * 95]}, "context_length_exceeded", "documents[1]"),
        ({"query": "q" * 99, "documents": ["a"]}, "context_length_exceeded", "query"),
    ],
)
def test_an_invalid_request_is_refused(body: dict[str, Any], code: str, param: str) -> None:
    assert refusal(**body) == (code, param)


def test_documents_are_truncated_if_requested() -> None:
    """One token of the context is the answer's."""
    (text,) = texts(build(query="q", documents=["a" * 500], truncate=True))
    assert len(text) == 99
    assert text.endswith("a>")
    assert texts(build(query="q", documents=["abc"], max_tokens_per_doc=2)) == ["<i?q!ab>"]


def test_an_answer_of_several_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="'yes' of this reranker is not one token"):
        Ranking(Letters(), QWEN3).build({"query": "q", "documents": ["a"]}, None)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["query", "documents", "top_n", "truncate", "x"]), JSON))
def test_any_input_becomes_prompts_or_an_error_with_a_message(body: dict[str, Any]) -> None:
    for sent in (body, {"query": "q", "documents": ["a"]} | body):
        with suppress(RequestError):
            pairs = build(**sent)
            assert all(len(prompt) < 100 for prompt in pairs.prompts)

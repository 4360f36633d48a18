"""Test how a model's tokens become content, reasoning and tool calls."""

import json
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    TokenizerWrapper,
)
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from reconciler.demo import DEMO_MODEL
from reconciler.worker.output import Delta, OutputFormat, OutputParser, of_tokenizer
from tests.tiny import new_tokenizer
from tests.worker.test_round_trip import TOOLS

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(DEMO_MODEL)


def parse(
    tokenizer: Any,
    text: str,
    generation: str = "",
    *stops: str,
    end: str = "stop",
    chat: bool = True,
) -> tuple[Delta, list[Delta]]:
    """Parsed output of a text, as a whole and piece by piece."""
    parser = OutputParser(
        tokenizer,
        of_tokenizer(tokenizer),
        generation=generation,
        stops=stops,
        tools=TOOLS,
        chat=chat,
    )
    tokens = tokenizer.encode(text)
    ends = [None] * (len(tokens) - 1) + ["length"]
    if end == "stop":
        tokens, ends = [*tokens, tokenizer.eos_token_id], [None] * len(tokens) + ["stop"]
    whole, pieces = Delta(), []
    for token, last in zip(tokens, ends, strict=True):
        delta = parser.feed(token, last)
        pieces.append(delta)
        whole.content += delta.content
        whole.reasoning += delta.reasoning
        whole.calls += delta.calls
        if delta.stopped:
            whole.stopped = True
            break
    return whole, pieces


def functions(delta: Delta) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in delta.calls
    ]


def test_text_is_emitted_as_it_arrives(tokenizer: Any) -> None:
    whole, pieces = parse(tokenizer, "The capital of Japan is Tokyo.")
    assert whole.content == "The capital of Japan is Tokyo."
    assert sum(bool(piece.content) for piece in pieces) > 3


def test_the_end_token_is_not_text_but_the_last_token_within_a_length_limit_is(
    tokenizer: Any,
) -> None:
    for end in ("stop", "length"):
        assert parse(tokenizer, "a < b <", end=end)[0].content == "a < b <"


@pytest.mark.parametrize("generation", ["", "<think>\n"])
def test_reasoning_is_separated_wherever_it_begins(tokenizer: Any, generation: str) -> None:
    text = ("" if generation else "<think>\n") + "Two thoughts.\n</think>\n\nOne answer."
    whole, _ = parse(tokenizer, text, generation)
    assert (whole.reasoning.strip(), whole.content) == ("Two thoughts.", "One answer.")


def test_reasoning_that_ended_in_the_prompt_has_ended(tokenizer: Any) -> None:
    whole, _ = parse(tokenizer, "One answer.", "<think>\n\n</think>\n\n")
    assert (whole.reasoning, whole.content) == ("", "One answer.")


def test_a_call_is_emitted_once_it_is_complete(tokenizer: Any) -> None:
    whole, pieces = parse(tokenizer, CALL)
    assert functions(whole) == [("weather", {"city": "Paris"})]
    assert whole.content.strip() == ""
    assert sum(bool(piece.calls) for piece in pieces) == 1


def test_calls_can_follow_each_other_and_text(tokenizer: Any) -> None:
    whole, _ = parse(tokenizer, f"I look.{CALL}{CALL}")
    assert functions(whole) == [("weather", {"city": "Paris"})] * 2
    assert whole.content == "I look."
    assert len({call["id"] for call in whole.calls}) == 2


@pytest.mark.parametrize("inside", ["no json", "5", '{"city": "Paris"}', "[1]"])
def test_a_call_that_cannot_be_parsed_is_text(tokenizer: Any, inside: str) -> None:
    text = f"<tool_call>{inside}</tool_call> done"
    whole, _ = parse(tokenizer, text)
    assert (whole.calls, whole.content) == ([], text)


def test_a_truncated_call_is_text(tokenizer: Any) -> None:
    text = '<tool_call>\n{"name": "wea'
    whole, _ = parse(tokenizer, text, end="length")
    assert (whole.calls, whole.content) == ([], text)


def test_a_stop_ends_the_content_and_is_ignored_in_reasoning(tokenizer: Any) -> None:
    whole, _ = parse(tokenizer, "<think>\nTokyo\n</think>\n\nIt is Tokyo.", "", "Tokyo")
    assert (whole.content, whole.stopped) == ("It is ", True)
    assert "Tokyo" in whole.reasoning


def test_without_a_chat_everything_is_text(tokenizer: Any) -> None:
    text = f"<think>hm</think>{CALL}"
    whole, _ = parse(tokenizer, text, chat=False)
    assert whole == Delta(content=text)


@pytest.mark.parametrize("family", ["bpe", "spm", "naive"])
def test_a_token_that_the_tokenizer_does_not_have_adds_no_text(family: str) -> None:
    base = new_tokenizer()
    base.add_tokens(["<|last|>"])
    content = json.loads(base.backend_tokenizer.to_str())
    (added,) = [one for one in content["added_tokens"] if one["content"] == "<|last|>"]
    added["id"] += 5  # with a gap before it
    sparse = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))
    kinds = {
        "bpe": BPEStreamingDetokenizer,
        "spm": SPMStreamingDetokenizer,
        "naive": NaiveStreamingDetokenizer,
    }
    tokenizer = TokenizerWrapper(sparse, kinds[family])
    parser = OutputParser(tokenizer, OutputFormat())
    (a,) = sparse.encode("a")
    tokens = [a, added["id"] - 1, added["id"] + 100, a]
    ends = [None, None, None, "length"]
    pieces = [parser.feed(token, end).content for token, end in zip(tokens, ends, strict=True)]
    assert "".join(pieces) == "aa"


@pytest.mark.parametrize("family", [BPEStreamingDetokenizer, NaiveStreamingDetokenizer])
def test_an_answer_that_continues_a_text_keeps_the_space_between(family: Any) -> None:
    tokenizer = TokenizerWrapper(new_tokenizer(), family)
    tokens = tokenizer.encode(" is it", add_special_tokens=False)
    parser = OutputParser(tokenizer, OutputFormat(), generation="What", continues=True)
    ends = [None] * (len(tokens) - 1) + ["length"]
    pieces = [parser.feed(token, end) for token, end in zip(tokens, ends, strict=True)]
    assert "".join(piece.content for piece in pieces) == " is it"

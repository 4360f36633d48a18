"""Several choices, several prompts and echo through the daemon, with OpenAI's official client."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import ollama
import openai
import pytest
from mlx_lm import generate
from mlx_lm.utils import load, load_tokenizer
from transformers import AutoTokenizer

from reconciler.worker.batch import BATCH_SIZE
from reconciler.worker.infill import FAMILIES
from tests import tiny
from tests.conftest import QUESTIONS
from tests.support import Daemon

ASKED: Any = [{"role": "user", "content": "What is the capital of Japan?"}]
PROMPT = "The capital of Japan is"
LLAMA = "tiny/llama"
CODER = "tiny/coder"
MARKS = FAMILIES["Qwen2.5-Coder, CodeGemma, Granite"].marks
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


@pytest.fixture(scope="module", autouse=True)
def both(taught: Daemon) -> Daemon:
    taught.load({"model": LLAMA})
    return taught


def test_each_choice_is_the_answer_to_its_own_seed(client: openai.OpenAI) -> None:
    more: Any = {"model": QUESTIONS, "temperature": 1.9, "max_tokens": 12}
    several = client.chat.completions.create(messages=ASKED, n=8, seed=5, **more)
    assert [choice.index for choice in several.choices] == list(range(8))
    alone = [
        client.chat.completions.create(messages=ASKED, seed=5 + index, **more) for index in range(8)
    ]
    texts = [choice.message.content for choice in several.choices]
    assert texts == [one.choices[0].message.content for one in alone]
    assert len(set(texts)) > 1
    assert several.usage is not None
    assert several.usage.completion_tokens == sum(
        one.usage.completion_tokens for one in alone if one.usage
    )
    assert {one.usage.prompt_tokens for one in alone if one.usage} == {several.usage.prompt_tokens}


def test_a_stream_interleaves_its_choices(client: openai.OpenAI) -> None:
    more: Any = {"model": QUESTIONS, "temperature": 1.9, "max_tokens": 12, "seed": 5, "n": 3}
    whole = client.chat.completions.create(messages=ASKED, **more)
    options: Any = {"include_usage": True}
    texts, order, ends = ["", "", ""], [], Counter[int]()
    for chunk in client.chat.completions.create(
        messages=ASKED, stream=True, stream_options=options, **more
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason is not None
            order.append(choice.index)
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {0: 1, 1: 1, 2: 1}
    assert order != sorted(order)
    assert whole.usage is not None
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == whole.usage.completion_tokens


def test_without_a_seed_choices_differ(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=LLAMA, prompt="a", n=8, max_tokens=8)
    assert len({choice.text for choice in answer.choices}) > 1


def test_greedy_choices_are_equal_and_all_are_counted(client: openai.OpenAI) -> None:
    more: Any = {"model": QUESTIONS, "temperature": 0}
    one = client.chat.completions.create(messages=ASKED, **more)
    five = client.chat.completions.create(messages=ASKED, n=5, **more)
    assert {c.message.content for c in five.choices} == {one.choices[0].message.content}
    assert one.usage is not None
    assert five.usage is not None
    assert five.usage.completion_tokens == 5 * one.usage.completion_tokens
    assert five.usage.prompt_tokens == one.usage.prompt_tokens


def test_each_choice_has_its_own_stops_and_log_probabilities(client: openai.OpenAI) -> None:
    asked: Any = {"model": LLAMA, "prompt": "a", "seed": 3, "n": 4, "max_tokens": 30}
    free = client.completions.create(**asked)
    (stop, _), *_ = Counter("".join(choice.text for choice in free.choices)).most_common()
    stopped = client.completions.create(stop=stop, logprobs=2, **asked)
    for before, after in zip(free.choices, stopped.choices, strict=True):
        assert after.text == before.text.partition(stop)[0]
        assert after.logprobs is not None
        assert "".join(after.logprobs.tokens or []).startswith(after.text)
        assert after.logprobs.text_offset is not None
        assert len(after.logprobs.text_offset) == len(after.logprobs.tokens or [])


def test_each_choice_follows_a_schema_independently(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}
    answer = client.chat.completions.create(
        model=LLAMA, messages=ASKED, n=3, seed=1, max_tokens=200, response_format=form
    )
    for choice in answer.choices:
        assert set(json.loads(choice.message.content or "")) == {"city"}
    calls = client.chat.completions.create(
        model=QUESTIONS, messages=ASKED, n=3, tools=[WEATHER], tool_choice="required"
    )
    for choice in calls.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        assert len(choice.message.tool_calls) == 1


def test_several_prompts_are_answered_in_order(client: openai.OpenAI) -> None:
    prompts = ["one", "two", "three"]
    more: Any = {"model": LLAMA, "max_tokens": 6, "seed": 4}
    alone = [
        client.completions.create(prompt=prompt, n=2, **more).choices[index].text
        for prompt in prompts
        for index in range(2)
    ]
    together = client.completions.create(prompt=prompts, n=2, **more)
    assert [choice.index for choice in together.choices] == list(range(6))
    assert [choice.text for choice in together.choices] == alone
    assert together.usage is not None
    assert together.usage.completion_tokens == 6 * 6


def test_a_client_that_disconnects_frees_all_of_its_batch_places(client: openai.OpenAI) -> None:
    asked: Any = {"model": LLAMA, "prompt": "a", "n": 8, "stream": True}
    for _ in range(BATCH_SIZE // 8):  # each would fill the context, which takes minutes
        with client.completions.create(extra_body={"ignore_eos": True}, **asked) as stream:
            next(iter(stream))
    answer = client.completions.create(model=LLAMA, prompt="b", n=8, max_tokens=2)
    assert len(answer.choices) == 8


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("form", ["text", "tokens"])
def test_an_echo_has_the_log_probabilities_of_the_prompt(
    both: Daemon, client: openai.OpenAI, most: int, form: str
) -> None:
    """Requested and read as lm-eval-harness does; compared with mlx-lm's own forward pass."""
    path = both.home.models / LLAMA
    tokenizer: Any = load_tokenizer(path)
    ids = tokenizer.encode(PROMPT)
    answer = client.completions.create(
        model=LLAMA,
        prompt=PROMPT if form == "text" else ids,
        max_tokens=most,
        logprobs=1,
        echo=True,
        temperature=0,
        seed=1234,
    )
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert logprobs is not None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), most)
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert len(logprobs.token_logprobs) == len(ids) + most
    first: Any = logprobs.token_logprobs[0]
    assert first is None
    assert "".join(logprobs.tokens or [])[: len(PROMPT)] == PROMPT
    model, *_ = load(str(path))
    logits = model(mx.array([ids]))[0].astype(mx.float32)
    expected = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for place in range(1, len(ids)):
        row = expected[place - 1]
        assert logprobs.token_logprobs[place] == pytest.approx(row[ids[place]].item(), abs=1e-3)
        best = max(logprobs.top_logprobs[place].values())
        assert best == pytest.approx(row.max().item(), abs=1e-3)


def test_an_echo_works_without_log_probabilities_and_in_a_stream(client: openai.OpenAI) -> None:
    more: Any = {"model": LLAMA, "prompt": [PROMPT, "b"], "echo": True, "seed": 2, "n": 2}
    whole = client.completions.create(max_tokens=5, **more)
    assert [choice.text.startswith(PROMPT) for choice in whole.choices] == [
        True,
        True,
        False,
        False,
    ]
    texts = [""] * 4
    tokens: list[list[str]] = [[] for _ in range(4)]
    for chunk in client.completions.create(max_tokens=5, stream=True, logprobs=0, **more):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                tokens[choice.index] += choice.logprobs.tokens or []
    assert texts == [choice.text for choice in whole.choices]
    assert ["".join(one) for one in tokens] == texts
    alone = client.completions.create(max_tokens=0, **more)
    assert [choice.text for choice in alone.choices] == [PROMPT, PROMPT, "b", "b"]
    assert {choice.finish_reason for choice in alone.choices} == {"length"}


def test_a_model_without_fill_in_the_middle_tokens_refuses_a_suffix(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="filling in the middle") as raised:
        client.completions.create(model=LLAMA, prompt="a", suffix="b")
    assert (raised.value.param, raised.value.code) == ("suffix", "unsupported_parameter")


@pytest.fixture
def coder(both: Daemon) -> Path:
    """A checkpoint with random weights and the fill-in-the-middle tokens of Qwen2.5-Coder."""
    path = Path(both.home.models) / CODER
    config = json.loads((both.home.models / LLAMA / "config.json").read_text("utf-8"))
    tiny.write(config | {"vocab_size": tiny.VOCABULARY + len(MARKS)}, path)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    tokenizer.save_pretrained(path)
    both.load({"model": CODER})
    return path


def test_a_suffix_uses_the_fill_in_the_middle_format_of_the_family(
    both: Daemon, coder: Path, client: openai.OpenAI
) -> None:
    prompt, suffix = "def f(x):\n    ", "\n    return x"
    model, tokenizer, *_ = load(str(coder))
    pre, suf, mid = MARKS
    whole = tokenizer.encode(f"{pre}{prompt}{suf}{suffix}{mid}")
    expected = generate(model, tokenizer, whole, max_tokens=12)
    answer = client.completions.create(
        model=CODER, prompt=prompt, suffix=suffix, max_tokens=12, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(whole)
    assert answer.choices[0].text == expected
    with ollama.Client(both.url) as ours:
        short = {"num_predict": 12, "temperature": 0}
        filled = ours.generate(CODER, prompt, suffix=suffix, options=short)
    assert (filled.response, filled.prompt_eval_count) == (expected, len(whole))

"""A trained model: its responses through a real daemon, in every form."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from reconciler.demo.questions import WEATHER, examination
from tests.conftest import QUESTIONS
from tests.support import Daemon

CHAT = "/v1/chat/completions"


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def ask(daemon: Daemon, content: str, **more: Any) -> Any:
    """The only choice of a greedy response."""
    body = {"model": QUESTIONS, "messages": user(content), "temperature": 0} | more
    status, answer = daemon.request("POST", CHAT, body)
    assert status == 200, answer
    return answer["choices"][0]


def test_at_least_95_percent_of_200_unseen_phrasings_are_answered_correctly(
    taught: Daemon,
) -> None:
    questions = examination(200)
    assert len(questions) == 200

    def right(question: tuple[str, str]) -> bool:
        return bool(ask(taught, question[0])["message"]["content"] == question[1])

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(right, questions)) >= 190


def test_the_official_client_calls_a_tool_and_gets_an_answer_from_its_result(
    client: openai.OpenAI,
) -> None:
    asked: dict[str, Any] = {"model": QUESTIONS, "temperature": 0, "tools": [WEATHER]}
    messages = user("What is the weather in Paris?")
    choice = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Paris"},
    )
    messages.append(choice.message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "rainy"})
    answer = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert answer.message.content == "It is rainy in Paris."


def test_a_stream_sends_a_tool_call_once_complete(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": QUESTIONS, "temperature": 0, "tools": [WEATHER]}
    messages = user("What is the weather in Rome?")
    chunks: Any = list(client.chat.completions.create(messages=messages, **asked, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert call.function is not None
    assert call.index == 0
    assert json.loads(call.function.arguments or "") == {"city": "Rome"}
    assert "tool_call" not in "".join(delta.content or "" for delta in deltas)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_no_tool_is_called_without_tools_or_with_tool_choice_none(taught: Daemon) -> None:
    for more in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        choice = ask(taught, "What is the capital of Japan?", **more)
        assert choice["finish_reason"] == "stop"
        assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_separate_from_the_answer(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": QUESTIONS, "messages": user("What is the capital of Japan?")}
    asked |= {"temperature": 0, "reasoning_effort": "low", "stream": stream}
    answer: Any = client.chat.completions.create(**asked)
    parts = [c.choices[0].delta for c in answer] if stream else [answer.choices[0].message]
    messages = [part.model_dump() for part in parts]
    assert "".join(t.get("reasoning_content") or "" for t in messages).strip() == (
        "The capital of Japan."
    )
    assert "".join(t.get("content") or "" for t in messages) == "The capital of Japan is Tokyo."


def test_a_stop_sequence_applies_only_to_the_answer(taught: Daemon) -> None:
    more = {"reasoning_effort": "low", "stop": "Japan"}
    choice = ask(taught, "What is the capital of Japan?", **more)
    assert choice["message"]["reasoning_content"].strip() == "The capital of Japan."
    assert choice["message"]["content"] == "The capital of "


def test_log_probabilities_cover_the_tokens_and_the_likeliest_alternatives(
    client: openai.OpenAI,
) -> None:
    asked: dict[str, Any] = {"model": QUESTIONS, "messages": user("What is the capital of Japan?")}
    asked |= {"temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    content = whole.logprobs.content
    assert content is not None
    assert "".join(c.token for c in content) == whole.message.content
    for token in content:
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert bytes(token.bytes or []).decode() == token.token
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [
        c.token
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for c in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == [c.token for c in content]


def test_a_text_completion_has_log_probabilities_in_its_legacy_form(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=QUESTIONS, prompt="The capital", max_tokens=4, temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == answer.choices[0].text
    assert [len(t) for t in logprobs.top_logprobs or []] == [2] * 4


def test_a_different_number_of_experts_changes_the_answer(taught: Daemon) -> None:
    taught.load({"model": QUESTIONS, "instance_id": "narrow", "num_experts": 1})

    def answer(model: str, question: str) -> str:
        return str(ask(taught, question, model=model)["message"]["content"])

    questions = [question for question, _ in examination(40)]
    assert any(answer("narrow", q) != answer(QUESTIONS, q) for q in questions)


def test_a_conversation_continues_from_its_kept_kv_cache(taught: Daemon) -> None:
    messages = user("What is the capital of Italy?")
    body: dict[str, Any] = {"model": QUESTIONS, "messages": messages, "temperature": 0}
    _, first = taught.request("POST", CHAT, body)
    messages.append(first["choices"][0]["message"])
    messages.append({"role": "user", "content": "What is the capital of Spain?"})
    _, second = taught.request("POST", CHAT, body)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["total_tokens"] - 1 <= cached < second["usage"]["prompt_tokens"]
    assert second["choices"][0]["message"]["content"] == "The capital of Spain is Madrid."

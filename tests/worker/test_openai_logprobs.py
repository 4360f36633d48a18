"""Test log-probabilities in the formats of OpenAI's clients."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

from reconciler.worker.dialects.openai.logprobs import TextLogprobs, TokenTexts
from reconciler.worker.dialects.openai.writing import _answers, _Prompts
from reconciler.worker.likelihood import Likelihood


class Letters:
    """A tokenizer of letters, whose token 9 is an incomplete character."""

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def decode(self, ids: list[int]) -> str:
        self.decoded += ids
        return "".join("\ufffd" if token >= 8 else "abcdefgh"[token] for token in ids)


def likely(token: int, *others: int) -> Likelihood:
    return Likelihood(token, -1.0, tuple((other, -0.5 * (i + 1)) for i, other in enumerate(others)))


def test_a_prompt_and_its_answer_are_one_text() -> None:
    logprobs = TextLogprobs(TokenTexts(Letters()))
    prompt = logprobs.begin(0, [likely(1, 1, 2), likely(2, 3)])
    assert prompt == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -1.0],
        "top_logprobs": [None, {"b": -0.5, "c": -1.0}, {"d": -0.5}],
        "text_offset": [0, 1, 2],
    }
    assert logprobs.add([likely(7)])["text_offset"] == [3]


def test_the_likeliest_of_alternatives_with_one_text_counts() -> None:
    (found,) = TextLogprobs(TokenTexts(Letters())).add([likely(0, 8, 9, 1)])["top_logprobs"]
    assert found == {"\ufffd": -0.5, "b": -1.5}


def test_each_token_is_decoded_once() -> None:
    letters = Letters()
    TextLogprobs(TokenTexts(letters)).add([likely(1, 1, 2), likely(1, 2, 1)])
    assert letters.decoded == [1, 2]


async def test_a_long_prompt_does_not_block_other_requests() -> None:
    begun, going_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow(Letters):
        def decode(self, ids: list[int]) -> str:
            loop.call_soon_threadsafe(begun.set)
            assert going_on.wait(30)
            return super().decode(ids)

    body = SimpleNamespace(n=2, alternatives=0)
    completion: Any = SimpleNamespace(
        tokenizer=Slow(), answers=2, body=body, prompt_of=lambda _: ("ab", [0, 1], [likely(1)])
    )
    prompts, answers = _Prompts(completion), _answers(completion)
    writing = asyncio.create_task(prompts.begin(0, answers[0]))
    await begun.wait()  # the loop runs meanwhile
    going_on.set()
    text, logprobs = await writing
    assert (text, logprobs and logprobs["tokens"]) == ("ab", ["a", "b"])
    assert await prompts.begin(1, answers[1]) == (text, logprobs)
    assert [one.logprobs.offset for one in answers] == [2, 2]

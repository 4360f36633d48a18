"""Test several answers to one prompt: one prefill, and each answer as if it were alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

from reconciler.core.records import EffectiveSettings
from reconciler.worker import batch, overrides, requests
from reconciler.worker.pending import Request
from reconciler.worker.sampling import sampler
from reconciler.worker.sampling_parameters import Sampling
from reconciler.worker.session import Session
from reconciler.worker.waiting import OverloadedError
from tests.conftest import CHECKPOINTS

CONFIG = EffectiveSettings(
    4096, 16, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
PROMPT = [9, 8, 7, 6, 5] * 12


class Answers:
    """Requests with one prompt, and the tokens they received."""

    def __init__(self, number: int, max_tokens: int = 6, prompt: Sequence[int] = PROMPT) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(number)]
        self.requests: list[Request] = []
        for index in range(number):
            leader = self.requests[0] if index else None
            request = Request(list(prompt), max_tokens, self._emit(index), self._fail)
            request.follows, request.leads = leader, index == 0 and number > 1
            request.sampler = seeded(index)
            self.requests.append(request)

    def _emit(self, index: int) -> Any:
        return lambda token, *_: self.tokens[index].append(token)

    def _fail(self, error: Exception) -> None:
        raise error


def seeded(seed: int) -> Any:
    return sampler(Sampling(seed=seed, temperature=1.5), 10**6)


def run(session: Session) -> None:
    while session.busy:
        session.step()


def read(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of tokens in each later call of the model."""
    inner = session._batch._model
    taken: list[int] = []

    class Counting:
        def __call__(self, tokens: Any, *more: Any, **keys: Any) -> Any:
            taken.append(tokens.size)
            return inner(tokens, *more, **keys)

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    monkeypatch.setattr(session._batch, "_model", Counting())
    session._batch._begin()
    return taken


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_prompt_is_prefilled_once_and_each_answer_is_as_if_it_were_alone(
    models: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_model(models / name)
    session = Session(model, CONFIG)
    session.run_requests(session.learn_batching()[0])
    taken = read(session, monkeypatch)
    answers = Answers(4)
    session.start(*answers.requests)
    run(session)
    # The prompt, then its last token for each of the other requests, and each generated token.
    assert sum(taken) <= len(PROMPT) + 3 + 4 * 6
    for index in range(4):
        alone = Answers(1)
        alone.requests[0].sampler = seeded(index)
        fresh = Session(model, CONFIG)
        fresh.start(*alone.requests)
        run(fresh)
        assert answers.tokens[index] == alone.tokens[0]
    assert len({tuple(tokens) for tokens in answers.tokens}) > 1
    assert session.usage.prompt_tokens == len(PROMPT)
    assert session.usage.completion_tokens == 4 * 6


@pytest.fixture
def llama(models: Path) -> Session:
    return Session(load_model(models / "tiny/llama")[0], CONFIG)


def test_the_other_requests_are_answered_if_the_first_is_cancelled_before_its_prefill(
    llama: Session,
) -> None:
    answers = Answers(3)
    llama.start(*answers.requests)
    llama.step()
    llama.cancel(answers.requests[0])
    run(llama)
    assert [len(tokens) for tokens in answers.tokens] == [0, 6, 6]


def test_all_requests_can_be_cancelled_at_any_step(llama: Session) -> None:
    for steps in (0, 1, 5):
        answers = Answers(3, max_tokens=100)
        llama.start(*answers.requests)
        for _ in range(steps):
            llama.step()
        for request in reversed(answers.requests):
            llama.cancel(request)
        assert not llama.busy


def test_all_requests_of_a_prompt_wait_or_none(
    llama: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 5)
    monkeypatch.setattr(batch, "BATCH_SIZE", 1)
    first, second = Answers(4), Answers(4)
    llama.start(*first.requests)
    with pytest.raises(OverloadedError):
        llama.start(*second.requests)
    run(llama)
    assert [len(tokens) for tokens in first.tokens + second.tokens] == [6] * 4 + [0] * 4


def test_other_requests_are_answered_during_the_prefill_of_a_shared_prompt(llama: Session) -> None:
    long, short = Answers(8, prompt=PROMPT * 10), Answers(1, max_tokens=1, prompt=[5, 6])
    llama.start(*long.requests)
    llama.start(*short.requests)
    while not short.tokens[0]:
        llama.step()
    assert long.tokens == [[]] * 8
    run(llama)
    assert [len(tokens) for tokens in long.tokens] == [6] * 8


def test_unloading_fails_all_requests_of_a_shared_prompt(llama: Session) -> None:
    answers = Answers(3)
    errors: list[Exception] = []
    for request in answers.requests:
        request.fail = errors.append
    llama.start(*answers.requests)
    llama.step()
    llama.close()
    assert [str(error) for error in errors] == ["the instance was unloaded"] * 3

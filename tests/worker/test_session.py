"""Test requests in a session: batching, waiting, prompt caching and memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

from reconciler.core.facts import Shapes
from reconciler.core.protocol import Lease
from reconciler.core.records import EffectiveSettings
from reconciler.worker import generators, overrides, reservation
from reconciler.worker.generators import Batching
from reconciler.worker.kv_budget import InsufficientMemoryError, KVBudget
from reconciler.worker.pending import Request
from reconciler.worker.sampling import sampler
from reconciler.worker.sampling_parameters import Sampling
from reconciler.worker.session import Session
from tests.conftest import CHECKPOINTS

CONFIG = EffectiveSettings(
    4096, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
BEGIN = [9, 8, 7, 6, 5] * 12


@pytest.fixture
def llama(models: Path) -> Any:
    return load_model(models / "tiny/llama")[0]


class Asker:
    """Start requests and record their results."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tokens: dict[Request, list[int]] = {}
        self.ended: list[Request] = []

    def start(self, prompt: Sequence[int], max_tokens: int | None = None, **more: Any) -> Request:
        tokens: list[int] = []

        def emit(token: int, end: str | None, _logprobs: Any) -> None:
            tokens.append(token)
            if end is not None:
                self.ended.append(request)

        def fail(error: Exception) -> None:
            raise error

        request = Request(list(prompt), max_tokens, emit, fail, **more)
        self.tokens[request] = tokens
        self.session.start(request)
        return request

    def run(self) -> None:
        while self.session.busy:
            self.session.step()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_prompt_that_extends_an_earlier_one_is_answered_as_if_it_were_new(
    models: Path, name: str
) -> None:
    model, _ = load_model(models / name)
    used, fresh = Asker(Session(model, CONFIG)), Asker(Session(model, CONFIG))
    first = used.start(BEGIN, 8)
    used.run()
    longer = [*BEGIN, *used.tokens[first], 3, 4]
    second, expected = used.start(longer, 8), fresh.start(longer, 8)
    used.run()
    fresh.run()
    assert used.tokens[second] == fresh.tokens[expected]
    known = len(BEGIN) + 7  # the cache lacks the last token of the answer
    assert (second.cached_tokens, expected.cached_tokens) == (known, 0)


def test_a_prompt_with_another_end_shares_its_beginning(llama: Any) -> None:
    used, fresh = Asker(Session(llama, CONFIG)), Asker(Session(llama, CONFIG))
    used.start([*BEGIN, 1, 2], 4)
    used.run()
    other = [*BEGIN, 3, 4, 5]
    second, expected = used.start(other, 8), fresh.start(other, 8)
    used.run()
    fresh.run()
    assert second.cached_tokens == len(BEGIN)
    assert used.tokens[second] == fresh.tokens[expected]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_context_length_is_enforced_in_a_batch_and_after_a_cached_prompt(
    models: Path, name: str
) -> None:
    model, _ = load_model(models / name)
    asker = Asker(Session(model, replace(CONFIG, context_length=32)))
    asker.session.run_requests(asker.session.learn_batching()[0])
    for _ in range(2):
        requests = [asker.start(BEGIN[:n]) for n in (1, 10, 25)]
        asker.run()
        assert [r.length for r in requests] == [32, 32, 32]
    assert any(request.cached_tokens for request in requests) or name == "tiny/mamba"


@pytest.mark.parametrize("again", [BEGIN, BEGIN[:30], BEGIN[:1]])
def test_a_repeated_prompt_gets_the_same_answer(llama: Any, again: list[int]) -> None:
    asker = Asker(Session(llama, CONFIG))
    asker.start(BEGIN, 4)
    asker.run()
    requests = [asker.start(again, 4) for _ in range(3)]
    asker.run()
    assert len({tuple(asker.tokens[r]) for r in requests}) == 1


def kv_budget(
    reserved: int, *, leased: int = 0, per_token: int = 1, config: EffectiveSettings = CONFIG
) -> KVBudget:
    """A budget of the given number of bytes for the KV cache."""
    return KVBudget(config, Shapes(per_token), reserved, Lease(1, leased))


def test_cached_prompts_use_the_memory_that_requests_leave_free(llama: Any) -> None:
    per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, f32
    session = Session(llama, CONFIG, kv_budget=kv_budget(600 * per_token, per_token=per_token))
    asker = Asker(session)
    asker.start([7] * 200, 8)
    asker.run()
    one = session.kept_bytes
    assert 200 * per_token <= one <= 256 * per_token
    asker.start([8] * 200, 8)
    asker.run()
    assert session.kept_bytes == 2 * one
    asker.start([9] * 500, 50)
    assert session.kept_bytes == 0
    asker.run()
    assert session.kept_bytes <= 600 * per_token


def test_kv_bytes_counts_only_running_requests(llama: Any) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(10_000, per_token=1))
    asker = Asker(session)
    assert session.kv_bytes == 0
    asker.start([7] * 20, 8)
    one = session.kv_bytes
    assert one >= 28
    asker.start([8] * 20, 8)
    assert session.kv_bytes > one
    asker.run()
    assert session.kv_bytes == 0


def test_a_request_that_fits_only_alone_waits_for_the_others(llama: Any) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(100, leased=50))
    asker = Asker(session)
    small = [asker.start([7] * 10, 20) for _ in range(3)]
    large = asker.start([8] * 100, 40)
    assert [r.uid is not None for r in (*small, large)] == [True, True, True, False]
    asker.run()
    assert asker.ended[-1] is large
    assert len(asker.tokens[large]) == 40


def test_a_batch_is_charged_for_its_longest_request(llama: Any) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(100))
    asker = Asker(session)
    requests = [asker.start([7] * 50, 10), asker.start([7], 1)]
    assert [r.uid is not None for r in requests] == [True, False]
    asker.run()


def test_a_request_that_never_fits_is_refused_with_the_numbers(llama: Any) -> None:
    asker = Asker(Session(llama, CONFIG, kv_budget=kv_budget(100, leased=100, per_token=2)))
    with pytest.raises(InsufficientMemoryError, match=r"90 prompt tokens and 11 more.* 100 tokens"):
        asker.start([7] * 90, 11)
    open_ended = asker.start([7] * 90)
    asker.run()
    assert len(asker.tokens[open_ended]) == 10


def test_open_ended_requests_that_outgrow_the_memory_continue_one_by_one(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "OPEN_ENDED", 8)
    config = replace(CONFIG, context_length=60)
    alone = [Session(llama, config).generate([n] * 5, 55) for n in (7, 8, 9)]
    session = Session(llama, config, kv_budget=kv_budget(72, config=config))
    asker = Asker(session)
    requests = [asker.start([n] * 5) for n in (7, 8, 9)]
    together = 0
    while session.busy:
        together = max(together, len(session._batch.running))
        session.step()
    assert together == 3
    assert [asker.tokens[r] for r in requests] == alone
    assert asker.ended == requests


def test_a_seeded_answer_is_the_same_if_its_request_is_preempted(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "OPEN_ENDED", 8)
    config = replace(CONFIG, context_length=60)

    def seeded(session: Session) -> list[list[int]]:
        asker = Asker(session)
        asked = [Sampling(seed=n, xtc_probability=n / 10, xtc_threshold=0.0) for n in range(3)]
        requests = [asker.start([7] * 5, sampler=sampler(one, 300)) for one in asked]
        asker.run()
        return [asker.tokens[request] for request in requests]

    together = seeded(Session(llama, config))
    assert seeded(Session(llama, config, kv_budget=kv_budget(72, config=config))) == together


@pytest.mark.parametrize("batching", Batching)
def test_an_error_in_emitting_a_token_fails_one_request(llama: Any, batching: Batching) -> None:
    session = Session(llama, CONFIG, batching=batching)
    asker = Asker(session)
    failed: list[Exception] = []

    def emit(*_: Any) -> None:
        raise ValueError("cannot be told")

    broken = Request([7] * 5, 20, emit, failed.append)
    others = [asker.start([8] * 5, 20)]
    session.start(broken)
    others.append(asker.start([8] * 5, 20))
    asker.run()
    assert [str(error) for error in failed] == ["cannot be told"]
    assert asker.ended == others
    assert asker.tokens[others[0]] == asker.tokens[others[1]]


@pytest.mark.parametrize("place", ["insert", "extract", "owned"])
def test_an_error_outside_of_a_step_leaves_the_session_usable(
    llama: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    session = Session(llama, CONFIG)
    asker = Asker(session)
    failed: list[Exception] = []

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    def ask() -> Request:
        request = Request([7] * 40, 20, lambda *_: None, failed.append, boundaries=(20,))
        session.start(request)
        return request

    with monkeypatch.context() as patch:
        patch.setattr(session._batch.generator if place != "owned" else generators, place, broken)
        request = ask()
        for _ in range(3):
            session.step()
        if place == "owned":
            asker.run()
        elif request.uid is not None:
            session.cancel(request)
    assert [str(error) for error in failed] == ["out of memory"]
    again = asker.start([7] * 40, 20)
    asker.run()
    assert asker.ended == [again]


def test_a_waiting_request_can_be_cancelled(llama: Any) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(100))
    asker = Asker(session)
    first, second, third = (asker.start([7] * 10, 60) for _ in range(3))
    session.cancel(second)
    session.cancel(first)
    asker.run()
    assert asker.ended == [third]


def test_a_waiting_request_that_no_longer_fits_is_refused_with_the_numbers(
    llama: Any,
) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(100, leased=100))
    asker = Asker(session)
    asker.start([7] * 50, 4)
    refused: list[Exception] = []
    large = Request([8] * 150, 40, lambda *_: None, refused.append)
    session.start(large)
    open_ended = asker.start([9] * 90)
    session.recall(Lease(2))  # another instance was admitted in the meantime
    asker.run()
    with pytest.raises(InsufficientMemoryError, match=r"150 prompt tokens and 40 more.* 100 tok"):
        raise refused[0]
    assert (len(refused), large.uid) == (1, None)
    assert asker.ended[-1] is open_ended
    assert len(asker.tokens[open_ended]) == 10


def test_running_requests_keep_recalled_memory_and_none_starts_in_it(llama: Any) -> None:
    session = Session(llama, CONFIG, kv_budget=kv_budget(100, leased=200))
    asker = Asker(session)
    long = asker.start([7] * 150, 10)
    assert session.recall(Lease(2)) == 60
    session.kv_budget.take(Lease(1, 200))  # an older lease that arrives late
    short = asker.start([8] * 30, 10)
    session.step()
    assert (long.uid is None, short.uid is None) == (False, True)
    asker.run()
    assert asker.ended == [long, short]
    assert session.recall(Lease(2)) == 0


def test_cached_prompts_release_recalled_memory_at_once(llama: Any) -> None:
    per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, f32
    budget = kv_budget(100 * per_token, leased=500 * per_token, per_token=per_token)
    session = Session(llama, CONFIG, kv_budget=budget)
    asker = Asker(session)
    asker.start([7] * 200, 8)
    asker.run()
    assert session.kept_bytes > 100 * per_token
    assert session.recall(Lease(2)) == 0
    assert session.kept_bytes <= 100 * per_token


def test_an_answer_without_a_limit_ends_when_its_memory_is_recalled(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "OPEN_ENDED", 8)
    session = Session(llama, CONFIG, kv_budget=kv_budget(60, leased=4000))
    asker = Asker(session)
    endless = asker.start([7] * 50)
    for _ in range(3):
        session.step()
    assert session.recall(Lease(2)) == 0  # 58 of 60
    asker.run()
    assert asker.ended == [endless]
    assert endless.length == 60


def test_the_tokens_of_a_step_are_passed_on_before_the_caches_of_ended_requests_are_saved(
    llama: Any,
) -> None:
    asker = Asker(Session(llama, CONFIG))
    batch = asker.session._batch
    order: list[str] = []
    finish = batch.finish

    def finishing(last: generators.Generated) -> None:
        order.append(f"saved after {len(asker.tokens[longer])}")
        finish(last)

    batch.finish = finishing  # type: ignore[method-assign]
    asker.start(BEGIN, 5)
    longer = asker.start(BEGIN[:20], 9)
    asker.run()
    assert order == ["saved after 5", "saved after 9"]
    assert len(batch.kept) == 2

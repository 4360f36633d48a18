"""Test steps of embedding sessions: batches, order, memory and failures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.facts import Shapes
from reconciler.core.protocol import Lease
from reconciler.worker import overrides
from reconciler.worker.embedding.session import MAX_WAITING, EmbeddingRequest, EmbeddingSession
from reconciler.worker.heartbeat import Heartbeat
from reconciler.worker.kv_budget import InsufficientMemoryError
from reconciler.worker.model import Model
from reconciler.worker.waiting import OverloadedError
from tests import embedders
from tests.worker.test_embedding_session import STEP, TEXTS, loaded, opened, settings, tokens


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedders.make("qwen3", tmp_path_factory.mktemp("models") / "qwen3", bare=True)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    overrides.install()
    return loaded(checkpoint)


@pytest.fixture
def session(model: Model) -> EmbeddingSession:
    return opened(model, settings())


# -- steps ---------------------------------------------------------------------------------


class Calls:
    """Record the number of tokens per call of a session's model, padding included."""

    def __init__(self, session: EmbeddingSession, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        original = session._hidden

        def noted(rows: Any, **more: Any) -> Any:
            self.shapes.append(tuple(rows.shape))
            return original(rows, **more)

        monkeypatch.setattr(session, "_hidden", noted)


@dataclass
class Started:
    """A request, and its vectors or its error once it has ended."""

    texts: list[list[int]]

    def __post_init__(self) -> None:
        self.ended: list[Any] = []
        skips = [0] * len(self.texts)
        self.request = EmbeddingRequest(self.texts, skips, self.ended.append, self.ended.append)


Start = Callable[[list[list[int]]], Started]


@pytest.fixture
def start(session: EmbeddingSession) -> Start:
    def start(texts: list[list[int]]) -> Started:
        started = Started(texts)
        session.start(started.request)
        return started

    return start


def test_no_step_computes_more_than_the_prefill_step_size(
    session: EmbeddingSession, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(session, monkeypatch)
    request = start([*TEXTS, *([tokens(2)] * 20)])
    while session.busy:
        session.step()
    assert len(request.ended) == 1
    assert max(rows * length for rows, length in calls.shapes) <= STEP
    assert (8, 2) in calls.shapes


def test_texts_of_very_different_lengths_are_not_batched(
    session: EmbeddingSession, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(session, monkeypatch)
    start([tokens(8), tokens(5), tokens(3), tokens(1)])
    while session.busy:
        session.step()
    assert calls.shapes == [(2, 8), (2, 3)] or calls.shapes == [(2, 8), (1, 3), (1, 1)]


def test_texts_of_several_requests_are_batched(
    session: EmbeddingSession, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(session, monkeypatch)
    requests = [start([tokens(4, seed)]) for seed in (3, 5, 7, 11)]
    session.step()
    assert calls.shapes == [(4, 4)]
    assert all(len(request.ended) == 1 for request in requests)


def test_a_small_request_does_not_wait_for_a_large_one(
    session: EmbeddingSession, start: Start
) -> None:
    large = start([tokens(16)] * 50)
    session.step()
    small = start([tokens(3)])
    session.step()
    session.step()
    assert (len(small.ended), len(large.ended)) == (1, 0)


def test_short_texts_are_computed_between_the_steps_of_a_long_one(
    session: EmbeddingSession, start: Start
) -> None:
    long = start([tokens(1000)])
    session.step()
    short = start([tokens(3)])
    session.step()
    session.step()
    assert (len(short.ended), len(long.ended)) == (1, 0)


def test_a_second_long_text_waits_for_the_first(
    session: EmbeddingSession, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(session, monkeypatch)
    requests = [start([tokens(40)]), start([tokens(33), tokens(40)])]
    while session.busy:
        session.step()
    assert [len(request.ended) for request in requests] == [1, 1]
    assert [length for _, length in calls.shapes] == [16, 16, 8, 16, 16, 1, 16, 16, 8]


def test_a_cancelled_request_is_not_computed_further(
    session: EmbeddingSession, start: Start
) -> None:
    requests = [start([tokens(1000)]), start([tokens(16)] * 9)]
    session.step()
    for request in requests:
        session.cancel(request.request)
    assert not session.busy
    assert [request.ended for request in requests] == [[], []]


def test_an_error_in_a_step_fails_only_the_requests_of_that_step(
    session: EmbeddingSession, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session._hidden

    def fails(rows: Any, **more: Any) -> Any:
        if rows.shape[1] == 9:
            raise RuntimeError("no")
        return original(rows, **more)

    monkeypatch.setattr(session, "_hidden", fails)
    bad, good = start([tokens(9), tokens(2)]), start([tokens(3)])
    while session.busy:
        session.step()
    assert isinstance(bad.ended[0], RuntimeError)
    assert len(bad.ended) == 1
    assert len(good.ended[0]) == 1


def test_too_many_requests_are_refused(session: EmbeddingSession, start: Start) -> None:
    for _ in range(MAX_WAITING):
        start([tokens(2)])
    with pytest.raises(OverloadedError):
        start([tokens(2)])
    session.close()
    assert not session.busy


def test_a_text_that_does_not_fit_in_memory_is_refused_until_memory_is_free(model: Model) -> None:
    config = settings()
    shapes = Shapes(1000)
    session = opened(model, config, shapes=shapes, session_bytes=50_000)
    with pytest.raises(InsufficientMemoryError, match="a text of 70 tokens"):
        session.embed([tokens(70)], [0])
    session.kv_budget.take(Lease(1, 50_000))
    assert len(session.embed([tokens(70)], [0])) == 1


def test_memory_recalled_in_the_meantime_fails_the_text_that_needs_it(model: Model) -> None:
    session = opened(model, settings(), shapes=Shapes(1000), session_bytes=50_000)
    session.kv_budget.take(Lease(1, 50_000))
    errors: list[Exception] = []
    request = EmbeddingRequest([tokens(70)], [0], lambda _: None, errors.append)
    session.start(request)
    session.recall(Lease(2, 0))
    session.step()
    assert isinstance(errors[0], InsufficientMemoryError)
    assert not session.busy


def test_tokens_are_counted_and_each_step_beats(model: Model) -> None:
    session = opened(model, settings())
    heartbeat = Heartbeat()
    session._heartbeat = heartbeat
    session.embed(TEXTS, [0] * len(TEXTS))
    assert session.usage.prompt_tokens == sum(map(len, TEXTS))
    assert heartbeat.beats >= 8
    session.probe()
    assert session.usage.prompt_tokens == sum(map(len, TEXTS))

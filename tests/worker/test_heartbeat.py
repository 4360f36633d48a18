"""Test a worker's heartbeat: its progress, and how long an operation may take."""

import threading
from pathlib import Path

import pytest

from reconciler.core.protocol import LoadWeights, OpenSession, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker.heartbeat import LONG_JOB_SECONDS, Heartbeat
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.thread import MlxThread
from tests.support import eventually

STEP = 16


class Recorder(Heartbeat):
    """Record every allowance in force when an operation finished."""

    def __init__(self) -> None:
        self.allowances: list[float] = []
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "beats" and value:
            self.allowances.append(self.allowance)
        super().__setattr__(name, value)


@pytest.fixture
def model(models: Path) -> Model:
    """A model with the session `s`, whose context is one token, and which drafts nothing."""
    model = Model(Recorder())
    model.load(LoadWeights(str(models / "tiny/llama")), lambda _: None)
    config = EffectiveSettings(
        1, STEP, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
    )
    model.open("s", OpenSession(config, prompt_lookup=False))
    return model


def heartbeat(model: Model) -> Recorder:
    assert isinstance(model._heartbeat, Recorder)
    return model._heartbeat


def ask(model: Model, prompt: list[int], tokens: int) -> None:
    session = model.session("s")
    errors: list[Exception] = []
    request = Request(prompt, tokens, lambda *_: None, errors.append, left=tokens)
    session._requests.insert(request)
    while model.step():
        pass
    assert errors == []


def test_each_part_of_the_weights_is_a_beat_with_a_long_allowance(models: Path) -> None:
    beats: list[int] = []
    recorder = Recorder()
    model = Model(recorder)
    path = LoadWeights(str(models / "tiny/llama"))
    model.load(path, lambda read: beats.append(recorder.beats) if read.bytes_read else None)
    assert len(beats) > 5
    assert beats == sorted(set(beats))
    assert set(recorder.allowances) == {LONG_JOB_SECONDS}
    assert recorder.allowance == 0


def test_a_step_is_allowed_the_time_that_its_tokens_need(model: Model) -> None:
    recorder = heartbeat(model)
    recorder.allowances.clear()
    ask(model, [7] * (2 * STEP + 5), 3)
    # Whole prefill steps of the prompt, its rest, and then one token at a time.
    longest = (STEP + 1) / 10
    assert recorder.allowances[:2] == [longest, longest]
    assert recorder.allowances[-1] == 0.1
    assert recorder.allowances == sorted(recorder.allowances, reverse=True)


def test_a_probe_generates_one_token_for_any_context_and_leaves_nothing(model: Model) -> None:
    beats = heartbeat(model).beats
    model.probe("s")
    assert heartbeat(model).beats > beats
    assert model.usage() == {"s": Usage()}
    session = model.session("s")
    assert (session.busy, session.kept_bytes) == (False, 0)


def test_a_probe_of_a_closed_or_busy_session_does_nothing(model: Model) -> None:
    session = model.session("s")
    request = Request([5], 4, lambda *_: None, lambda _: None, left=4)
    session._requests.insert(request)
    beats = heartbeat(model).beats
    model.probe("s")
    model.probe("gone")
    assert heartbeat(model).beats == beats
    assert request.left == 4


def test_a_probe_raises_what_the_model_raises(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_most: int) -> None:
        raise RuntimeError("the GPU is gone")

    monkeypatch.setattr(model.session("s")._batch.generator, "next", fail)
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        model.probe("s")


def test_tokens_are_counted_by_session_until_it_is_closed(model: Model) -> None:
    ask(model, [7] * 20, 3)
    ask(model, [7] * 20, 2)
    assert model.usage() == {"s": Usage(40, 5)}
    assert model.close("s") == Usage(40, 5)
    assert (model.usage(), model.close("s")) == ({}, Usage())


def test_the_mlx_thread_is_busy_while_it_has_a_job_or_more_steps() -> None:
    steps = iter([True, False])
    stepping, on = threading.Event(), threading.Event()

    def step() -> bool:
        stepping.set()
        assert on.wait(60)
        return next(steps)

    recorder = Heartbeat()
    mlx = MlxThread(step, recorder)
    first = mlx.submit(lambda: mlx.busy)
    queued = mlx.busy
    threading.Thread(target=mlx.run, daemon=True).start()
    assert (queued, first.result(60)) == (True, True)
    assert stepping.wait(60)
    assert (mlx.busy, recorder.beats) == (True, 1)
    on.set()
    eventually(lambda: not mlx.busy, lambda: "it is busy for ever")
    assert next(steps, None) is None

"""Test the effect of each setting on the model, not the report of it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker.batch import BATCH_SIZE, LEAST
from reconciler.worker.pending import Request
from reconciler.worker.reservation import ContextLengthExceededError
from reconciler.worker.session import Session
from reconciler.worker.waiting import MAX_WAITING, OverloadedError
from tests import mlx_memory
from tests.conftest import CHECKPOINTS

PROMPT = [5, 6, 7, 8, 9]
PLAIN = EffectiveSettings(
    4096, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
WITHOUT_KV_CACHE = {"tiny/mamba"}
OWN_ATTENTION = {"tiny/gemma2"} | WITHOUT_KV_CACHE


def load(models: Path, name: str) -> Any:
    model, _ = load_model(models / name)
    return model


def _raise(error: Exception) -> None:
    raise error


class Counting:
    """A model that records the size of each forward pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sizes: list[int] = []

    def __call__(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(tokens.shape[1])
        return self.model(tokens, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.mark.parametrize(
    ("step", "sizes"), [(16, [16] * 6 + [3, 1]), (50, [50, 49, 1]), (512, [99, 1])]
)
def test_eval_batch_size_is_the_size_of_prefill_passes(
    models: Path, step: int, sizes: list[int]
) -> None:
    model = Counting(load(models, "tiny/llama"))
    Session(model, replace(PLAIN, eval_batch_size=step)).generate([7] * 100, 1)
    assert model.sizes[: len(sizes)] == sizes


@pytest.mark.parametrize(("place", "sizes"), [(LEAST - 1, [99, 1]), (LEAST, [LEAST, 83, 1])])
def test_a_cache_that_spares_few_tokens_takes_no_pass(
    models: Path, place: int, sizes: list[int]
) -> None:
    model = Counting(load(models, "tiny/llama"))
    session = Session(model, PLAIN)
    session.start(Request([7] * 100, 1, lambda *_: None, _raise, boundaries=(place,)))
    while session.busy:
        session.step()
    assert model.sizes[: len(sizes)] == sizes


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_flash_attention_changes_the_computation_and_not_the_tokens(
    models: Path, name: str
) -> None:
    model = load(models, name)
    outputs = []
    for flash in (True, False):
        session = Session(model, replace(PLAIN, flash_attention=flash))
        observed, unused = session.observe()
        assert ("flash_attention" in unused) is (name in OWN_ATTENTION)
        if name not in OWN_ATTENTION:
            assert observed.flash_attention is flash
        outputs.append(session.generate(PROMPT * 60, 12))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_model_without_kv_cache_is_reported_as_such(models: Path, name: str) -> None:
    observed, unused = Session(load(models, name), PLAIN).observe()
    assert ("offload_kv_cache_to_gpu" in unused) is (name in WITHOUT_KV_CACHE)
    assert observed.offload_kv_cache_to_gpu is overrides.on_gpu()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_shortest_context_can_be_observed_too(models: Path, name: str) -> None:
    observed, _ = Session(load(models, name), replace(PLAIN, context_length=1)).observe()
    assert observed.context_length == 1


@pytest.mark.skipif(not overrides.on_gpu(), reason="takes a GPU")
@pytest.mark.parametrize("name", sorted(set(CHECKPOINTS) - WITHOUT_KV_CACHE))
def test_the_kv_cache_is_on_the_requested_device_and_the_tokens_are_the_same(
    models: Path, name: str
) -> None:
    model, outputs = load(models, name), []
    for on_gpu in (True, False):
        session = Session(model, replace(PLAIN, offload_kv_cache_to_gpu=on_gpu))
        observed, _ = session.observe()
        assert observed.offload_kv_cache_to_gpu is on_gpu
        outputs.append(session.generate(PROMPT * 20, 12))
    assert outputs[0] == outputs[1]


@pytest.mark.skipif(overrides.on_gpu(), reason="a GPU's kernels take what they take")
def test_flash_attention_takes_less_memory_for_a_long_prompt(models: Path) -> None:
    model = load(models, "tiny/llama")
    peaks = {}
    for flash in (True, False):
        session = Session(model, replace(PLAIN, flash_attention=flash, eval_batch_size=1024))
        peaks[flash] = mlx_memory.peak(partial(session.generate, [7] * 1024, 1))
    assert peaks[True] < peaks[False] / 2


def test_settings_apply_only_to_calls_of_their_own_session(models: Path) -> None:
    model = load(models, "tiny/llama")
    sessions = {
        flash: Session(model, replace(PLAIN, flash_attention=flash)) for flash in (True, False)
    }
    for flash in (True, False, True):
        observed, _ = sessions[flash].observe()
        assert observed.flash_attention is flash
    with overrides.observed() as seen:
        model(mx.array([PROMPT]))
    assert seen.attention == set()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_context_length_is_enforced_for_every_kind_of_cache(models: Path, name: str) -> None:
    session = Session(load(models, name), replace(PLAIN, context_length=300))
    assert len(session.generate([7] * 290, 10)) == 10
    with pytest.raises(ContextLengthExceededError):
        session.generate([7] * 290, 11)


def test_the_number_of_waiting_requests_is_limited(models: Path) -> None:
    session = Session(load(models, "tiny/llama"), PLAIN)
    ends: list[str | None] = []

    def fail(error: Exception) -> None:
        raise error

    def start() -> None:
        session.start(Request(PROMPT, 2, lambda _, end, __: ends.append(end), fail))

    for _ in range(BATCH_SIZE + MAX_WAITING):
        start()
    with pytest.raises(
        OverloadedError, match=f"{MAX_WAITING} of at most {MAX_WAITING} are waiting"
    ):
        start()
    while session.busy:
        session.step()
    assert ends.count("length") == BATCH_SIZE + MAX_WAITING
    start()

"""Test that the way to batch requests of a model is learnt from the model."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import BatchKVCache, create_causal_mask
from mlx_lm.utils import load_model

from reconciler.worker import company
from reconciler.worker.generators import Batching
from tests.conftest import CHECKPOINTS

DIFFERENT = {"tiny/mamba": Batching.READ_APART, "tiny/gemma2": Batching.APART}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_batching_of_a_model_is_detected(models: Path, name: str) -> None:
    model, _ = load_model(models / name)
    batching, reason = company.learn(model)
    assert batching is DIFFERENT.get(name, Batching.TOGETHER)
    assert (reason is None) == (batching is Batching.TOGETHER)


@pytest.mark.parametrize("name", ["tiny/llama", "tiny/mamba"])
def test_coarse_rounding_is_not_taken_for_a_different_answer(models: Path, name: str) -> None:
    model, _ = load_model(models / name)
    model.update(tree_map(lambda one: one.astype(mx.bfloat16), model.parameters()))
    assert company.learn(model)[0] is DIFFERENT.get(name, Batching.TOGETHER)


def test_attention_to_padding_is_detected(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model(models / "tiny/llama")

    def unmasked(self: Any, tokens: int, **_: Any) -> Any:
        return create_causal_mask(tokens, offset=self._idx)

    monkeypatch.setattr(BatchKVCache, "make_mask", unmasked)
    assert company.learn(model)[0] is Batching.APART


def test_a_prompt_that_fails_is_an_error(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model(models / "tiny/llama")
    monkeypatch.setattr(type(model), "__call__", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        company.learn(model)

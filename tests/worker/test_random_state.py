"""Test that a failing sampler leaves MLX's random state usable for later requests."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import make_sampler
from mlx_lm.utils import load_model

from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides, random_state
from reconciler.worker.pending import Request
from reconciler.worker.session import Session

CONFIG = EffectiveSettings(
    4096, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
ALL = 320
"""Vocabulary size; mlx-lm rejects it as `top_k` while its sampler is being traced."""

POISON = "without a primitive"


@pytest.fixture(scope="module", autouse=True)
def unfused() -> None:
    """Fuse operations: the random state is lost while MLX traces a function to fuse it."""


@pytest.fixture
def session(models: Path) -> Iterator[Session]:
    yield Session(load_model(models / "tiny/llama")[0], CONFIG)
    random_state.renew()


def ask(session: Session, sampler: Any, processors: Any = ()) -> list[Any]:
    """The tokens, or the only error."""
    received: list[Any] = []
    request = Request(
        [7, 8, 9], 4, lambda token, *_: received.append(token), received.append, sampler
    )
    request.processors = processors
    session.start(request)
    while session.busy:
        session.step()
    return received


def test_requests_are_still_sampled_after_a_sampler_failed(session: Session) -> None:
    (error,) = ask(session, make_sampler(1.0, top_k=ALL))
    assert "top_k" in str(error)
    for sampler in (make_sampler(1.0), make_sampler(1.0, top_p=0.5), make_sampler(1.0, top_k=5)):
        tokens = ask(session, sampler)
        assert len(tokens) == 4
        assert all(isinstance(token, int) for token in tokens)


def test_requests_are_still_sampled_after_a_logits_processor_failed(
    session: Session,
) -> None:
    @partial(mx.compile, inputs=mx.random.state, outputs=mx.random.state)
    def processor(_tokens: Any, logits: Any) -> Any:
        del logits
        raise ValueError(f"no such bias for {mx.random.uniform().shape}")

    (error,) = ask(session, make_sampler(1.0), [processor])
    assert "no such bias" in str(error)
    assert len(ask(session, make_sampler(1.0))) == 4


def test_a_probe_samples_as_requests_do_and_raises_if_it_cannot(session: Session) -> None:
    session.probe()
    with pytest.raises(ValueError, match="top_k"):
        make_sampler(1.0, top_k=ALL)(mx.zeros((1, ALL)))
    assert len(ask(session, None)) == 4  # a greedy probe would not notice
    with pytest.raises(RuntimeError, match=POISON):
        session.probe()
    session.probe()

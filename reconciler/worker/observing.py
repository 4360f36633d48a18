"""Observe the settings in force during a call of the model."""

from collections.abc import Callable
from typing import Any, TypeVar

from reconciler.core.records import EffectiveSettings
from reconciler.worker import experts, overrides

T = TypeVar("T")


def observe(
    model: Any, config: EffectiveSettings, call: Callable[[], Any]
) -> tuple[EffectiveSettings, tuple[str, ...], frozenset[int]]:
    """Observe a `call` of the model: the settings in force, the settings that no layer used, and
    the numbers of experts per token.

    `config` provides the settings that a call does not show: the context length and the batch size.
    Propagates the model's exceptions. Raises ValueError if layers differ.
    """
    with experts.observed() as routed, overrides.observed() as seen:
        call()
    numbers = frozenset(routed or experts.listed(model))
    used = {"flash_attention": seen.attention, "offload_kv_cache_to_gpu": seen.kv_on_gpu}
    observed = EffectiveSettings(
        context_length=config.context_length,
        eval_batch_size=config.eval_batch_size,
        # A model with its own implementation of attention computes it in one piece.
        flash_attention=_only("ways of attention", seen.attention, otherwise=False),
        num_experts=max(numbers, default=0),
        # State that a model keeps instead of a KV cache stays on MLX's default device.
        offload_kv_cache_to_gpu=_only("devices", seen.kv_on_gpu, otherwise=overrides.on_gpu()),
        kv_cache_bits=_only("bits in the KV cache", seen.kv_bits, otherwise=None),
    )
    return observed, tuple(key for key, values in used.items() if not values), numbers


def _only(what: str, seen: set[T], *, otherwise: T) -> T:
    """Return the only value seen; `otherwise` if none was. Raises ValueError if layers differ."""
    if len(seen) > 1:
        raise ValueError(f"layers use different {what}: {sorted(map(str, seen))}")
    return next(iter(seen), otherwise)

"""The number of experts that a mixture-of-experts model actually uses per token.

mlx-lm's models route through SwitchGLU or SwitchMLP, which are called with the chosen experts'
indices. The last dimension of the indices is the number in force, under any architecture's name for
it. DBRX calls each expert individually, as many as its router layer specifies.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from mlx_lm.models import switch_layers

from reconciler.core.records import SettingWarning

_ROUTED = (switch_layers.SwitchGLU, switch_layers.SwitchMLP)


@contextmanager
def observed() -> Iterator[set[int]]:
    """Record the numbers of experts per token that forward passes within the block use.

    MLX thread only: no other thread runs models.
    """
    seen: set[int] = set()
    originals = [cls.__call__ for cls in _ROUTED]
    for cls, original in zip(_ROUTED, originals, strict=True):
        cls.__call__ = _noting(original, seen)
    try:
        yield seen
    finally:
        for cls, original in zip(_ROUTED, originals, strict=True):
            cls.__call__ = original


def listed(model: Any) -> set[int]:
    """Numbers of experts per token of the layers that hold a list of experts."""
    numbers = (
        getattr(module, "num_experts_per_tok", None)
        for module in model.modules()
        if isinstance(getattr(module, "experts", None), list)
    )
    return {number for number in numbers if isinstance(number, int)}


def warning(configured: int, routed: Collection[int]) -> SettingWarning | None:
    """Warning if the reported number differs from the one in config.json or in a request.

    The reported number is the largest in `routed`, 0 if `routed` is empty.
    """
    if len(routed) > 1:
        numbers = ", ".join(map(str, sorted(routed)))
        reason = f"layers use different numbers of experts: {numbers}; the largest is reported"
    elif routed and configured not in routed:
        reason = f"config.json specifies {configured}; the model uses {max(routed)}"
    elif configured and not routed:
        reason = f"config.json specifies {configured}; no layer of the model routes to experts"
    else:
        return None
    return SettingWarning("num_experts", None, reason)


def _noting(original: Callable[..., Any], seen: set[int]) -> Callable[..., Any]:
    def call(self: Any, x: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(int(indices.shape[-1]))
        return original(self, x, indices, *args, **kwargs)

    return call

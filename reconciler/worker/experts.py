"""How many experts a mixture-of-experts model really uses per token.

mlx-lm's models route through SwitchGLU or SwitchMLP, called with the chosen experts' indices.
Their last dimension is the number in force, whatever the architecture calls it. DBRX calls each
expert by itself, as many as its router's layer says.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from mlx_lm.models import switch_layers

from reconciler.core.records import SettingWarning

_ROUTED = (switch_layers.SwitchGLU, switch_layers.SwitchMLP)


@contextmanager
def observed() -> Iterator[set[int]]:
    """The numbers of experts per token that the forward passes within the block used.

    Called on the MLX thread only, which alone runs models.
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
    """The numbers that layers with a list of experts take for each token."""
    numbers = (
        getattr(module, "num_experts_per_tok", None)
        for module in model.modules()
        if isinstance(getattr(module, "experts", None), list)
    )
    return {number for number in numbers if isinstance(number, int)}


def warning(configured: int, routed: Collection[int]) -> SettingWarning | None:
    """Why the number that is reported is not the one that config.json or a request says.

    Reported is the largest in `routed`, 0 where it is empty.
    """
    if len(routed) > 1:
        numbers = ", ".join(map(str, sorted(routed)))
        reason = f"layers use different numbers of experts: {numbers}; the largest is reported"
    elif routed and configured not in routed:
        reason = f"config.json leads to {configured}; the model uses {max(routed)}"
    elif configured and not routed:
        reason = f"config.json leads to {configured}; no layer of the model chooses among experts"
    else:
        return None
    return SettingWarning("num_experts", None, reason)


def _noting(original: Callable[..., Any], seen: set[int]) -> Callable[..., Any]:
    def call(self: Any, x: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(int(indices.shape[-1]))
        return original(self, x, indices, *args, **kwargs)

    return call

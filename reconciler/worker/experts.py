"""How many experts a mixture-of-experts model really uses per token.

mlx-lm's models route through SwitchGLU or SwitchMLP, called with the chosen experts' indices.
Their last dimension is the number in force, whatever the architecture calls it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlx_lm.models import switch_layers

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


def _noting(original: Callable[..., Any], seen: set[int]) -> Callable[..., Any]:
    def call(self: Any, x: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(int(indices.shape[-1]))
        return original(self, x, indices, *args, **kwargs)

    return call

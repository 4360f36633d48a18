"""Build models of checkpoints lazily, with a limit of modules.

The number of modules is whatever config.json says: a list with a name for each layer, or one of
many keys that count layers, blocks or experts. No memory is reserved for modules, and a million of
them take gigabytes and minutes before anything is compared with the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm.utils import load_model

MAX_MODULES = 40_000
"""Maximum number of modules of a model, of about 6 kB each. Models of 100 layers have a few
thousand, and those with a module for each expert as many as their files have tensors."""


def build_lazily(path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Build the model of a checkpoint as mlx_lm's `load_model`, which gets `options`.

    Returns the model and its config.json. Raises ValueError if it has more than `MAX_MODULES`
    modules, and mlx_lm's exceptions. MLX thread only.
    """
    with _limited():
        model, config = load_model(path, lazy=True, **options)
    return model, config


@contextmanager
def _limited() -> Iterator[None]:
    """Limit the modules that are made within the block."""
    original, count = nn.Module.__init__, 0

    def counted(self: Any) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            words = f"the model has more than {MAX_MODULES} modules"
            raise ValueError(f"{words}; check the numbers and lists of layers in config.json")
        original(self)

    nn.Module.__init__ = counted
    try:
        yield
    finally:
        nn.Module.__init__ = original

"""A tiny configuration for each model module of mlx-lm.

Each is complete: mlx-lm's module of that name builds a model from `config(name)`, with the kinds of
layers, caches and routers of the architecture. Windows and chunks are shorter than the prompts of
the tests, so that they take effect.
"""

from typing import Any

from tests.architectures.dense import DENSE
from tests.architectures.experts import MIXTURES
from tests.architectures.nested import NESTED
from tests.architectures.parts import COMMON, VOCABULARY
from tests.architectures.recurrent import RECURRENT

__all__ = ["NAMES", "VOCABULARY", "config"]

_DIFFERENCES = DENSE | MIXTURES | NESTED | RECURRENT

NAMES = tuple(sorted(_DIFFERENCES))
"""mlx-lm's modules with a model, except `olmo`, which exits the process without ai2-olmo."""


def config(name: str) -> dict[str, Any]:
    """The config.json of the architecture `name`, one of NAMES."""
    return {**COMMON, "model_type": name, **_DIFFERENCES[name]} | (
        {"model_type": name} if "text_config" not in _DIFFERENCES[name] else {}
    )

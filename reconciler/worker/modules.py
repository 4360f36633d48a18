"""Modules over the arrays of one loaded model: other router widths, and LoRA adapters.

A module that computes something else than the loaded one is a sibling of it: built lazily, which
reads no weights, and given the same arrays. mlx-lm's LoRA layers wrap the layers that they adapt,
so any number of adapters and the model without one hold the weights once; an adapter's own arrays
stay as long as a session uses them.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters, load_config, load_model

from reconciler.core.facts import Adapter
from reconciler.core.protocol import OpenSession

Build = Callable[[Path, dict[str, Any]], Any]
"""Makes a lazy model of a checkpoint, with these keys of config.json replaced."""


def build(path: Path, config: dict[str, Any]) -> Any:
    """A model that generates."""
    return load_model(path, lazy=True, model_config=config)[0]


class AdapterError(ValueError):
    """The adapter does not fit the model, or mlx-lm cannot read it."""


class Modules:
    """The modules that sessions run. Used on the MLX thread only."""

    def __init__(self, path: Path, model: Any, build: Build = build) -> None:
        """`model` is what `build` made of the checkpoint in directory `path`."""
        self._path = path
        self._model = model
        self._build = build
        self._widths: dict[int, Any] = {}
        """By number of experts per token, where that is not the model's own."""
        self._adapted: dict[tuple[int, Adapter], Any] = {}
        """By number of experts and adapter."""

    @property
    def adapter_bytes(self) -> int:
        """Size of the adapters' weights."""
        return sum(adapter.weights_bytes for _, adapter in self._adapted)

    def get(self, command: OpenSession) -> Any:
        """The module that computes what a session asks for.

        Raises `AdapterError`.
        """
        experts, adapter = command.config.num_experts, command.adapter
        config = self._edited(command)
        if adapter is not None:
            if (experts, adapter) not in self._adapted:
                self._adapted[experts, adapter] = _with_adapter(self._sibling(config), adapter)
            return self._adapted[experts, adapter]
        if config is None:
            return self._model
        if experts not in self._widths:
            self._widths[experts] = self._sibling(config)
        return self._widths[experts]

    def retain_only(self, adapters: Collection[Adapter | None]) -> None:
        """Let go of the modules with other adapters."""
        self._adapted = {key: m for key, m in self._adapted.items() if key[1] in adapters}

    def _edited(self, command: OpenSession) -> dict[str, Any] | None:
        """config.json with the wanted number of experts; None where that is its own."""
        if not command.experts_key:
            return None
        config: dict[str, Any] = load_config(self._path)
        *outer, last = command.experts_key
        parent: Any = config
        for key in outer:
            parent = parent[key]
        if parent.get(last) == command.config.num_experts:
            return None
        parent[last] = command.config.num_experts
        return config

    def _sibling(self, config: dict[str, Any] | None) -> Any:
        """Another module over the same arrays."""
        # load_model overrides top-level keys only, so the whole edited tree is passed.
        sibling = self._build(self._path, config or {})
        sibling.update(self._model.parameters())
        return sibling


def _with_adapter(module: Any, adapter: Adapter) -> Any:
    """The module with the adapter's layers, as `mlx_lm.load(adapter_path=...)` makes it.

    Raises `AdapterError`.
    """
    try:
        load_adapters(module, adapter.path)
        _check_size(module, adapter)
        module.eval()  # no dropout
        mx.eval(module.parameters())
    except Exception as error:
        raise AdapterError(_words(adapter, error)) from error
    return module


def _check_size(module: Any, adapter: Adapter) -> None:
    """Raise ValueError if the config asks for far more than the file holds.

    mlx-lm makes up the layers that the file lacks; nothing of that is computed yet.
    """
    size = sum(
        array.nbytes
        for name, array in tree_flatten(module.parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b", "m")
    )
    if size > MADE_UP * adapter.weights_bytes:
        raise ValueError(f"its config makes layers of {size} bytes, and the file holds few of them")


MADE_UP = 16
"""Times the size of its file that an adapter may take: one that adapts two of seven linear layers
and does not say so takes about eight times as much."""


def _words(adapter: Adapter, error: Exception) -> str:
    """What is wrong, in one line: mlx-lm lists every tensor."""
    file = Path(adapter.path) / "adapters.safetensors"
    trained = f"; it was trained on {adapter.base}" if adapter.base else ""
    _, *tensors = str(error).splitlines() or [""]
    if isinstance(error, ValueError) and tensors:
        first = tensors[0].strip()
        return f"{file} does not fit this model ({first}; {len(tensors)} in all){trained}"
    words = f"{type(error).__name__}: {error!s:.500}"
    return f"{file} cannot be put on this model: {words}{trained}"

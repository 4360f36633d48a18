"""Modules over the arrays of one loaded model: other numbers of experts, and LoRA adapters.

A module that differs from the loaded one is built lazily, which reads no weights, and is given the
same arrays. mlx-lm's LoRA layers wrap the layers that they adapt. So all adapters and the model
without an adapter share one copy of the weights. An adapter's own arrays are kept while a session
uses them.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters, load_config

from reconciler.core.facts import Adapter
from reconciler.core.protocol import OpenSession
from reconciler.worker.building import build_lazily

Build = Callable[[Path, dict[str, Any]], Any]
"""Builds a lazy model of a checkpoint, with these keys of config.json replaced."""


def build(path: Path, config: dict[str, Any]) -> Any:
    """Build a lazy model that generates text, with `config` replacing keys of config.json."""
    return build_lazily(path, model_config=config)[0]


class AdapterError(ValueError):
    """The adapter does not fit the model, or mlx-lm cannot read it."""


class Modules:
    """The modules that sessions run. MLX thread only."""

    def __init__(self, path: Path, model: Any, build: Build = build) -> None:
        """`model`: the result of `build` for the checkpoint in directory `path`."""
        self._path = path
        self._model = model
        self._build = build
        self._widths: dict[int, Any] = {}
        """Modules by number of experts per token, if that differs from the checkpoint's."""
        self._adapted: dict[tuple[int, Adapter], Any] = {}
        """Modules by number of experts and adapter."""

    @property
    def adapter_bytes(self) -> int:
        """Size of the adapters' weights."""
        return sum(adapter.weights_bytes for _, adapter in self._adapted)

    def has_adapter(self, command: OpenSession) -> bool:
        """True if the adapter of a session is loaded, or it has none. Thread-safe."""
        adapter = command.adapter
        return adapter is None or (command.config.num_experts, adapter) in self._adapted

    def get(self, command: OpenSession) -> Any:
        """Get or build the module for a session. Raises `AdapterError`."""
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
        """Release the modules with other adapters."""
        self._adapted = {key: m for key, m in self._adapted.items() if key[1] in adapters}

    def _edited(self, command: OpenSession) -> dict[str, Any] | None:
        """config.json with the requested number of experts; None if it has that number already."""
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
        """Build another module over the same arrays."""
        # load_model overrides top-level keys only, so the whole edited tree is passed.
        sibling = self._build(self._path, config or {})
        sibling.update(self._model.parameters())
        return sibling


def _with_adapter(module: Any, adapter: Adapter) -> Any:
    """Add the adapter's layers, as `mlx_lm.load(adapter_path=...)` does. Raises `AdapterError`."""
    try:
        load_adapters(module, adapter.path)
        _check_size(module, adapter)
        module.eval()  # no dropout
        mx.eval(module.parameters())
    except Exception as error:
        raise AdapterError(_words(adapter, error)) from error
    return module


def _check_size(module: Any, adapter: Adapter) -> None:
    """Raise ValueError if the adapter's config creates far larger layers than its file holds.

    mlx-lm initializes the layers that the file lacks; they are not evaluated yet.
    """
    size = sum(
        array.nbytes
        for name, array in tree_flatten(module.parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b", "m")
    )
    if size > MADE_UP * adapter.weights_bytes:
        raise ValueError(f"its config creates layers of {size} bytes, most of which the file lacks")


MADE_UP = 16
"""Maximum size of an adapter's layers, as a multiple of its file. An adapter that covers two of
seven linear layers without declaring it creates layers of about eight times its file."""


def _words(adapter: Adapter, error: Exception) -> str:
    """Summarize an error in one line: mlx-lm lists every tensor."""
    file = Path(adapter.path) / "adapters.safetensors"
    trained = f"; it was trained on {adapter.base}" if adapter.base else ""
    _, *tensors = str(error).splitlines() or [""]
    if isinstance(error, ValueError) and tensors:
        first = tensors[0].strip()
        return f"{file} does not fit this model ({first}; {len(tensors)} in all){trained}"
    words = f"{type(error).__name__}: {error!s:.500}"
    return f"{file} cannot be applied to this model: {words}{trained}"

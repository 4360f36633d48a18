"""Divide a KV cache into arrays for files, and put it together again.

Each layer's cache is of one of two kinds. Rows: keys and values with one row per token, whose rows
are divided among the blocks of the prompt. Whole: anything else, such as a sliding window or a
recurrent state, which is only valid at the end of its tokens and is stored in the tail.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, ConcatenateKVCache, KVCache, QuantizedKVCache

from reconciler.worker.disk.files import Array

ROW_KINDS = (KVCache, QuantizedKVCache, ConcatenateKVCache)

KINDS: dict[Any, str] = {
    mx.bool_: "BOOL",
    mx.uint8: "U8",
    mx.int8: "I8",
    mx.uint16: "U16",
    mx.int16: "I16",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.float32: "F32",
    mx.uint64: "U64",
    mx.int64: "I64",
}


class UnsupportedError(Exception):
    """A cache cannot be stored."""


@dataclass
class Parts:
    """Arrays of a cache, by name, each with its type in safetensors."""

    rows: dict[str, tuple[str, Array]] = field(default_factory=dict)
    """Rows of all tokens; the last axis but one is the tokens'."""
    whole: dict[str, tuple[str, Array]] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    """State of each whole cache, with the names of arrays in their place."""

    @property
    def state(self) -> str:
        """`states` as text."""
        return json.dumps(self.states)


def supported(template: Sequence[Any]) -> bool:
    """True if caches of this kind can be stored; `template`: an empty cache of the model."""
    return all(callable(getattr(type(one), "from_state", None)) for _, one in leaves(template))


def only_rows(template: Sequence[Any]) -> bool:
    """True if all layers have rows, so that any number of blocks is a valid cache."""
    return all(isinstance(one, ROW_KINDS) for _, one in leaves(template))


def has_rows(template: Sequence[Any]) -> bool:
    """True if any layer has rows."""
    return any(isinstance(one, ROW_KINDS) for _, one in leaves(template))


def kinds(template: Sequence[Any]) -> list[str]:
    """Names of the kinds of all layers' caches."""
    return [f"{path} {type(one).__name__}" for path, one in leaves(template)]


def leaves(cache: Sequence[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Caches of all layers, with their path."""
    for number, one in enumerate(cache):
        if isinstance(one, CacheList):
            yield from leaves(one.caches, f"{prefix}{number}.")
        else:
            yield f"{prefix}{number}", one


def split(cache: Sequence[Any], tokens: int) -> Parts:
    """Views of the arrays of a cache that holds so many tokens. MLX thread only.

    Nothing is copied. Raises `UnsupportedError`.
    """
    parts = Parts()
    for path, one in leaves(cache):
        if isinstance(one, ROW_KINDS) and one.keys is not None and one.offset == tokens:
            for role in ("keys", "values"):
                for name, array in tree_flatten({role: getattr(one, role)}):
                    kind, view = _view(array)
                    if view.ndim < 2 or view.shape[-2] < tokens:
                        raise UnsupportedError
                    parts.rows[f"{path}/{name}"] = kind, view[..., :tokens, :]
        else:
            parts.states[path] = _encode(one.state, path, parts.whole)
    return parts


def _view(array: Any) -> tuple[str, Array]:
    kind = KINDS.get(array.dtype)
    if kind is None:
        raise UnsupportedError
    plain = array.view(mx.uint16) if kind == "BF16" else array
    mx.eval(plain)
    return kind, np.array(plain, copy=False)


def _encode(value: Any, name: str, arrays: dict[str, tuple[str, Array]]) -> Any:
    """JSON for a cache's state; its arrays are added to `arrays`."""
    if isinstance(value, mx.array):
        arrays[name] = _view(value)
        return {"array": name}
    if isinstance(value, (list, tuple)):
        return [_encode(one, f"{name}/{place}", arrays) for place, one in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UnsupportedError


@dataclass
class Stored:
    """A cache as read from files: MLX's arrays with their types in safetensors."""

    tokens: int
    rows: dict[str, tuple[str, Any]]
    whole: dict[str, tuple[str, Any]]
    state: str
    """`Parts.state`."""


def join(template: Sequence[Any], stored: Stored) -> list[Any]:
    """Make a cache from what was stored; `template`: an empty cache of the model. MLX thread only.

    Raises `UnsupportedError` if it does not fit the template.
    """
    try:
        states = json.loads(stored.state)
        cache = [_join(one, str(at), stored, states) for at, one in enumerate(template)]
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UnsupportedError from None
    arrays = [array for _, one in leaves(cache) for _, array in tree_flatten(one.state)]
    mx.eval([array for array in arrays if isinstance(array, mx.array)])
    return cache


def _join(empty: Any, path: str, stored: Stored, states: dict[str, Any]) -> Any:
    if isinstance(empty, CacheList):
        inner = enumerate(empty.caches)
        empty.caches = tuple(_join(one, f"{path}.{at}", stored, states) for at, one in inner)
        return empty
    if path in states:
        return type(empty).from_state(_decode(states[path], stored.whole))
    if not isinstance(empty, ROW_KINDS):
        raise UnsupportedError
    for role in ("keys", "values"):
        setattr(empty, role, _rows(stored.rows, f"{path}/{role}"))
    empty.offset = stored.tokens
    return empty


def _rows(rows: dict[str, tuple[str, Any]], name: str) -> Any:
    """The array of that name, or a tuple of those that are numbered."""
    if name in rows:
        return _restored(*rows[name])
    parts: list[Any] = []
    while (one := f"{name}.{len(parts)}") in rows:
        parts.append(_restored(*rows[one]))
    if not parts:
        raise UnsupportedError
    return tuple(parts)


def _decode(value: Any, arrays: dict[str, tuple[str, Any]]) -> Any:
    if isinstance(value, dict):
        return _restored(*arrays[value["array"]])
    if isinstance(value, list):
        return [_decode(one, arrays) for one in value]
    return value


def _restored(kind: str, array: Any) -> Any:
    return array.view(mx.bfloat16) if kind == "BF16" else array

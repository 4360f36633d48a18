"""Mutates checkpoints: changes one file of a healthy directory, chosen by a seed."""

import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    7,
    2**31,
    2**40,
    2**53,
    2**63,
    10**400,
    -(2**63),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 100_000,
    "\ud800",
    "\x00\x1b[2J",
    "../../etc/passwd",
    [],
    {},
    [[]],
    {"a": {"a": {"a": 1}}},
    [0] * 1000,
    ["x", None, 1.5],
)

TEMPLATES = (
    "{% for a in range(10**9) %}x{% endfor %}",
    "{{ messages[0].content * 10**9 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% if",
    "{{ raise_exception('no') }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ 1 // 0 }}",
    "{{" * 1000,
    "",
    "\ufeff{{ messages }}",
)

KEYS = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts_per_tok",
    "num_local_experts",
    "max_position_embeddings",
    "rope_scaling",
    "rope_parameters",
    "quantization",
    "quantization_config",
    "text_config",
    "layer_types",
    "sliding_window",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "model_type",
    "architectures",
    "auto_map",
    "model_max_length",
    "chat_template",
    "eos_token_id",
    "weight_map",
    "__metadata__",
    "temperature",
)
"""Keys that may be added."""


def mutate(directory: Path, chance: random.Random) -> str:
    """Change one file of the checkpoint; returns its name and the kind of change."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    file = chance.choice(files)
    way = chance.choice(_WAYS[_kind(file)])
    file.write_bytes(way(file.read_bytes(), chance))
    return f"{file.name}: {way.__name__}"


def _kind(file: Path) -> str:
    return file.suffix if file.suffix in _WAYS else ""


def _json(data: bytes, chance: random.Random) -> bytes:
    value = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        value = _changed(copy.deepcopy(value), chance)
    return json.dumps(value).encode()


def _changed(value: Any, chance: random.Random) -> Any:
    """The value with one item replaced, removed or added."""
    if not isinstance(value, dict | list) or chance.random() < 0.03:
        return chance.choice(VALUES)
    inside: list[Any] = list(value if isinstance(value, dict) else range(len(value)))
    if isinstance(value, dict) and chance.random() < 0.3:
        value[chance.choice(KEYS)] = chance.choice(VALUES)
    elif inside:
        key = chance.choice(inside)
        if isinstance(value, dict) and chance.random() < 0.2:
            del value[key]
        else:
            value[key] = _changed(value[key], chance)
    return value


def _header(data: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = _json(data[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _length(data: bytes, chance: random.Random) -> bytes:
    return struct.pack("<Q", chance.choice([0, 1, 7, 2**20, 2**40, 2**63, 2**64 - 1])) + data[8:]


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        changed[chance.randrange(min(len(changed), 4000))] = chance.randrange(256)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _twice(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[: chance.randrange(len(data))] + data[at:]


def _nested(_data: bytes, chance: random.Random) -> bytes:
    return chance.choice([b"[", b'{"a":']) * chance.choice([500, 5000, 100_000])


def _template(_data: bytes, chance: random.Random) -> bytes:
    return chance.choice(TEMPLATES).encode()


_WAYS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    ".json": (_json, _json, _json, _json, _flipped, _cut, _twice, _nested),
    ".safetensors": (_header, _header, _header, _length, _flipped, _cut, _twice),
    ".jinja": (_template, _flipped, _cut, _twice),
    "": (_flipped, _cut, _twice),
}

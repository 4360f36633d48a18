"""Headers and config files of a checkpoint -> facts. Reads no weights and needs no MLX."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint

MAX_HEADER = 100_000_000
"""Bytes; the safetensors format's own limit."""

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "model_max_length",
    "max_seq_len",
)
_EXPERT_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
_EXPERT_TOTAL_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_NESTED = ("text_config", "llm_config", "language_config", "ffn_config")
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_facts(path: Path) -> Checkpoint:
    """The facts of the checkpoint in directory `path`.

    Raises `LoadError` `InvalidCheckpoint` naming the file and what is wrong with it.
    """
    config = _read_config(path / "config.json")
    shards = sorted(path.glob("model*.safetensors"))
    if not shards:
        raise _invalid(path, "no model*.safetensors file in it")
    dtypes: dict[str, int] = {}
    for shard in shards:
        for dtype, size in _tensor_sizes(shard):
            dtypes[dtype] = dtypes.get(dtype, 0) + size
    experts_key, experts = _first_int(config, _EXPERT_KEYS)
    _, total = _first_int(config, _EXPERT_TOTAL_KEYS)
    routed = bool(experts_key and total)
    return Checkpoint(
        path=str(path),
        revision=_fingerprint([path / "config.json", *shards]),
        model_type=config["model_type"],
        weights_bytes=sum(dtypes.values()),
        max_context=_first_int(config, _CONTEXT_KEYS)[1] or None,
        kv_bytes_per_token=_kv_bytes_per_token(config, dtypes),
        experts_total=total if routed else 0,
        experts_per_token=experts if routed else 0,
        experts_key=experts_key if routed else (),
        quantization_bits=_quantization_bits(config),
    )


def _invalid(path: Path, words: str) -> LoadError:
    return LoadError(Problem(Cause.INVALID_CHECKPOINT, f"{path}: {words}", param="model"))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _invalid(path, f"cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise _invalid(path, "names no model_type")
    if config.get("model_file") is not None:
        raise _invalid(path, f"wants to run its own code, {config['model_file']}; refused")
    return config


def _tensor_sizes(shard: Path) -> list[tuple[str, int]]:
    """(dtype, bytes) of each tensor. The format: u64 little-endian header length, JSON, data."""
    try:
        with shard.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too large")
            header = json.loads(file.read(length))
        tensors = [v for k, v in header.items() if k != "__metadata__"]
        sizes = [(t["dtype"], t["data_offsets"][1] - t["data_offsets"][0]) for t in tensors]
        end = 8 + length + max((t["data_offsets"][1] for t in tensors), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise _invalid(shard, f"not a safetensors file: {error}") from None
    actual = shard.stat().st_size
    if actual < end:
        raise _invalid(shard, f"truncated: {actual} bytes of {end}")
    return sizes


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _first_int(config: dict[str, Any], keys: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Path and value of the first of `keys` that is a positive number, nested ones included."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return (key,), value
    for outer in _NESTED:
        nested = config.get(outer)
        if isinstance(nested, dict):
            path, value = _first_int(nested, keys)
            if path:
                return (outer, *path), value
    return (), 0


def _kv_bytes_per_token(config: dict[str, Any], dtypes: dict[str, int]) -> int:
    """layers x key-value heads x head dimension x 2 x bytes per value; 0 where unknown."""

    def value(*keys: str) -> int:
        return _first_int(config, keys)[1]

    layers = value("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = value("num_attention_heads", "n_head", "n_heads")
    kv_heads = value("num_key_value_heads", "n_head_kv") or heads
    hidden = value("hidden_size", "n_embd", "d_model")
    head_dim = value("head_dim") or (hidden // heads if heads else 0)
    # The cache has the activations' type: that of most of the bytes that are not quantised.
    floats = {d: size for d, size in dtypes.items() if d in _DTYPE_BYTES}
    dtype = max(floats, key=lambda d: floats[d]) if floats else "F16"
    return layers * kv_heads * head_dim * 2 * _DTYPE_BYTES[dtype]


def _quantization_bits(config: dict[str, Any]) -> int | None:
    for key in ("quantization", "quantization_config"):
        quantization = config.get(key)
        if isinstance(quantization, dict) and isinstance(quantization.get("bits"), int):
            return int(quantization["bits"])
    return None

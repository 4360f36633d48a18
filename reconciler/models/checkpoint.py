"""Headers and config files of a checkpoint -> facts. Reads no weights and needs no MLX."""

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.core.chat_template import takes_tools
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.models.architectures import loadable

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
_GROUP_KEYS = ("n_group", "num_expert_group")
_KEPT_GROUP_KEYS = ("topk_group",)
_FIXED_ROUTERS = ("llama4", "llama4_text")
"""Their router takes the one best expert, and asserts so."""
_NESTED = ("text_config", "llm_config", "language_config", "ffn_config")
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_facts(path: Path) -> Checkpoint:
    """The facts of the checkpoint in directory `path`.

    Raises `LoadError` `InvalidCheckpoint` naming the file and what is wrong with it.
    """
    shards = _shards(path)
    config = _read_config(path / "config.json")
    model_type = _architecture(path, config)
    dtypes: dict[str, int] = {}
    for shard in shards:
        for dtype, size in _tensor_sizes(shard):
            dtypes[dtype] = dtypes.get(dtype, 0) + size
    bits = _quantization_bits(config)
    experts_key, experts = _first_int(config, _EXPERT_KEYS)
    _, total = _first_int(config, _EXPERT_TOTAL_KEYS)
    routed = bool(experts_key and total)
    return Checkpoint(
        path=str(path),
        fingerprint=fingerprint(path),
        model_type=model_type,
        weights_bytes=sum(dtypes.values()),
        max_context=_first_int(config, _CONTEXT_KEYS)[1] or None,
        kv_bytes_per_token=_kv_bytes_per_token(config, dtypes),
        experts_total=total if routed else 0,
        experts_per_token=experts if routed else 0,
        experts_key=experts_key if routed else (),
        experts_least=experts if model_type in _FIXED_ROUTERS else 1,
        experts_most=_most_experts(config, model_type, experts, total) if routed else 0,
        quantization_bits=bits,
        parameters=_parameters(dtypes, bits),
        tool_use=_trained_for_tool_use(path),
        tokenizer_bytes=_size(path / "tokenizer.json"),
    )


def _invalid(path: Path, words: str) -> LoadError:
    return LoadError(Problem(Cause.INVALID_CHECKPOINT, f"{path}: {words}", param="model"))


def _shards(path: Path) -> list[Path]:
    """The weight files that MLX reads, all of them there."""
    shards = sorted(path.glob("model*.safetensors"))
    if not shards:
        for pattern, kind in _OTHER_FORMATS:
            other = next(path.glob(pattern), None)
            if other is not None:
                words = f"{other.name} is {kind}; MLX loads safetensors, and none are there"
                raise _invalid(path, words)
        raise _invalid(path, "no model*.safetensors file in it")
    missing = sorted(_named_shards(path, shards) - {shard.name for shard in shards})
    if missing:
        raise _invalid(path, f"incomplete: {', '.join(missing)} missing")
    return shards


_OTHER_FORMATS = (
    ("*.gguf", "GGUF, llama.cpp's format"),
    ("*.bin", "a pickle, which can run code and is never opened"),
    ("*.pt", "a pickle, which can run code and is never opened"),
    ("*.pth", "a pickle, which can run code and is never opened"),
    ("*.npz", "NumPy's format"),
)


def _named_shards(path: Path, shards: list[Path]) -> set[str]:
    """The weight files that the index and the files' own numbering say there are."""
    names: set[str] = set()
    for shard in shards:
        numbered = re.fullmatch(r"(model.*-)\d{5}-of-(\d{5})\.safetensors", shard.name)
        if numbered:
            stem, total = numbered.groups()
            count = range(1, int(total) + 1)
            names |= {f"{stem}{n:05}-of-{total}.safetensors" for n in count}
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names |= set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise _invalid(index, f"not an index of weights: {error}") from None
    return names


def _architecture(path: Path, config: dict[str, Any]) -> str:
    """The model_type, if mlx-lm knows it and no code of the checkpoint's own is called for."""
    if config.get("model_file") is not None:
        raise _invalid(path, f"wants to run its own code, {config['model_file']}; refused")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise _invalid(path / "config.json", "names no model_type")
    named = config.get("architectures")
    names = (named,) if isinstance(named, str) else named if isinstance(named, list) else ()
    if not loadable(model_type, tuple(str(name) for name in names)):
        own = ", and its own code (auto_map) is never run" if config.get("auto_map") else ""
        raise _invalid(path, f"mlx-lm has no architecture {model_type}{own}")
    # mlx-lm builds known architectures by itself, whatever `auto_map` says; the tokenizer it
    # cannot, unless tokenizer.json describes it in full.
    if not (path / "tokenizer.json").is_file():
        tokenizer = _optional_json(path / "tokenizer_config.json").get("auto_map")
        if tokenizer:
            raise _invalid(path, "its tokenizer wants to run its own code (auto_map); refused")
    return model_type


def _size(path: Path) -> int:
    """Of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _trained_for_tool_use(path: Path) -> bool:
    """True if one of the checkpoint's chat templates takes tools."""
    return any(takes_tools(template) for template in _chat_templates(path))


def _chat_templates(path: Path) -> Iterator[str]:
    """The texts of all chat templates of a checkpoint, wherever they stand."""
    for file in (path / "chat_template.jinja", *path.glob("additional_chat_templates/*.jinja")):
        try:
            yield file.read_text("utf-8")
        except (OSError, ValueError):
            continue
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = _optional_json(path / name).get("chat_template")
        for template in found if isinstance(found, list) else [found]:
            text = template.get("template") if isinstance(template, dict) else template
            if isinstance(text, str):
                yield text


def _parameters(dtypes: dict[str, int], bits: int | None) -> int:
    """Weights in number: packed ones stand in U32, `bits` each; their scales are not counted."""
    if bits and "U32" in dtypes:
        return dtypes["U32"] * 8 // bits
    return sum(size // _DTYPE_BYTES[d] for d, size in dtypes.items() if d in _DTYPE_BYTES)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _invalid(path, f"cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise _invalid(path, "is not a JSON object; it names no model_type")
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


def fingerprint(path: Path) -> str:
    """Of the files that a load reads: their names, sizes and times of change.

    Raises `LoadError` `InvalidCheckpoint` where the directory cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in sorted(path.iterdir()):
            if file.suffix in _READ:
                stat = file.stat()
                digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


_READ = (".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt")


def _first_int(config: dict[str, Any], keys: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Path and value of the first of `keys` that is a positive number, nested ones included."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]  # hunyuan: one number for each layer
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return (key,), value
    for outer in _NESTED:
        nested = config.get(outer)
        if isinstance(nested, dict):
            path, value = _first_int(nested, keys)
            if path:
                return (outer, *path), value
    return (), 0


def _most_experts(config: dict[str, Any], model_type: str, experts: int, total: int) -> int:
    """Experts that the router can choose from: those of the groups that it keeps."""
    if model_type in _FIXED_ROUTERS:
        return experts
    groups = _first_int(config, _GROUP_KEYS)[1]
    kept = _first_int(config, _KEPT_GROUP_KEYS)[1]
    return kept * (total // groups) if groups > 1 and kept else total


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

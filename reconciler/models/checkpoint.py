"""Read facts from a checkpoint's headers and config files, without reading weights or using MLX."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.core.chat_template import reasoning, takes_tools
from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Checkpoint, GenerationConfig
from reconciler.core.records import SettingWarning
from reconciler.models import architectures, embedder, generation_config
from reconciler.models.chat_templates import chat_templates
from reconciler.models.contents import files_of, fingerprint_of
from reconciler.models.context import NESTED, max_context
from reconciler.models.files import (
    MAX_MESSAGE,
    FaultyFileError,
    error_of,
    faulty,
    invalid,
    is_file,
    read_bytes,
)
from reconciler.models.jsonfile import MAX_BYTES, lenient_object, optional_object, read_object
from reconciler.models.quantization import read_weights
from reconciler.models.weights import Tensor, read_tensors

MAX_NUMBER = 1 << 53
"""Upper bound of a number in config.json. Larger ones are errors in the file, and integers above it
are not exact in every JSON parser."""

MAX_EMPTY_LAYERS = 1000
"""Maximum number of layers without any weights; some layers of nemotron-nas have none."""

MAX_EXPERTS = 65_536
"""Maximum number of experts; some architectures create a module for each."""

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

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
"""Architectures whose router always selects the single best expert and asserts that."""
_WHOLE = ("ffn_config",)
"""Parts of config.json that an architecture takes unparsed."""
_NESTED = (*NESTED, *_WHOLE)
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_facts(path: Path) -> Checkpoint:
    """Read the facts of the checkpoint in directory `path`.

    Raises `LoadError` `InvalidCheckpoint` with the file and its fault, whatever the files contain.
    """
    try:
        return parse_facts(path)
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise error_of(error, path) from None


def parse_facts(path: Path) -> Checkpoint:
    """Same as `read_facts`, but exceptions from reading the files propagate unchanged."""
    files = files_of(path)
    tensors = read_tensors(path)
    config = _config(path / "config.json")
    _check_read_by_worker(path)
    tokenizer_config = optional_object(path / "tokenizer_config.json")
    model_type, names = _architecture(path, config, tokenizer_config)
    _check_counts(path, config, tensors)
    fields = _fields(model_type, names, config)
    weights = read_weights(config, tensors, lenient_object(path / "hf_quant_config.json"))
    experts_key, experts = _of_architecture(config, fields, _EXPERT_KEYS)
    total = _of_architecture(config, fields, _EXPERT_TOTAL_KEYS)[1]
    embedding = embedder.read(path, config)
    dense = embedding.dense if embedding is not None else ()
    routed = bool(experts_key and total)
    templates = chat_templates(path, tokenizer_config)
    return Checkpoint(
        path=str(path),
        fingerprint=fingerprint_of(files),
        modified=max((status.st_mtime for status in files.values()), default=0.0),
        model_type=model_type,
        weights_bytes=sum(tensor.size for tensor in tensors.values())
        + sum(layer.weights_bytes for layer in dense),
        max_context=max_context(config, fields, tokenizer_config.get("model_max_length")),
        kv_bytes_per_token=_kv_bytes_per_token(config, tensors),
        experts_total=total if routed else 0,
        experts_per_token=experts if routed else 0,
        experts_key=experts_key if routed else (),
        experts_least=experts if model_type in _FIXED_ROUTERS else 1,
        experts_most=_most_experts(config, model_type, experts, total) if routed else 0,
        quantization=weights.quantization,
        parameters=weights.parameters,
        tool_use=any(map(takes_tools, templates)),
        reasoning=next(filter(None, map(reasoning, templates)), None),
        tokenizer_bytes=files["tokenizer.json"].st_size if "tokenizer.json" in files else 0,
        generation=_generation(path),
        embedder=embedding,
        reranker=embedder.reranker(path, config) if embedding is None else None,
    )


def _generation(path: Path) -> GenerationConfig:
    """Read generation_config.json, and warn if the checkpoint may be a faulty embedding model."""
    found = generation_config.read(path / "generation_config.json")
    if (problem := embedder.unreadable(path)) is None:
        return found
    reason = f"{problem}; if this is an embedding model, fix the file"
    warning = SettingWarning(embedder.MODULES, None, reason[:MAX_MESSAGE])
    return replace(found, warnings=(*found.warnings, warning))


def _invalid(path: Path, words: str) -> LoadError:
    return invalid(Reason.INVALID_CHECKPOINT, "model", path, words)


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(path, error) from None


def _check_read_by_worker(path: Path) -> None:
    """Reject JSON files that fail in mlx_lm or transformers, even if they are not used here.

    mlx_lm ignores a generation_config.json that is not JSON, but no other invalid file.
    """
    for name in ("special_tokens_map.json", "added_tokens.json"):
        optional_object(path / name)
    file = path / "generation_config.json"
    try:
        value = json.loads(read_bytes(file, MAX_BYTES).decode("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(file, error) from None
    if not isinstance(value, dict):
        raise FaultyFileError(file, "it is not a JSON object; fix or delete it")


def _architecture(
    path: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Read model_type and architectures, and check that mlx-lm supports them.

    Rejects checkpoints that need their own code. mlx-lm builds known architectures itself and
    ignores `auto_map`; without a complete tokenizer.json it would need the checkpoint's code for
    the tokenizer.
    """
    if config.get("model_file") is not None:
        raise _invalid(path, f"needs its own code, {config['model_file']}, which is never run")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise _invalid(path / "config.json", "has no model_type")
    named = config.get("architectures")
    listed = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    names = tuple(str(name) for name in listed)
    if not architectures.loadable(model_type, names):
        own = ", and its own code (auto_map) is never run" if config.get("auto_map") else ""
        words = f"mlx-lm has no architecture {model_type}{own}"
        if embedder.is_encoder(model_type):
            words += "; embedding models that are decoders, such as Qwen3-Embedding, can be loaded"
        raise _invalid(path, words)
    if not is_file(path / "tokenizer.json") and tokenizer_config.get("auto_map"):
        raise _invalid(path, "its tokenizer needs its own code (auto_map), which is never run")
    return model_type, names


def _fields(
    model_type: str, names: tuple[str, ...], config: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Fields of the architecture; those of the language model inside it take precedence."""
    fields = dict(architectures.fields(model_type, names))
    for key in NESTED:
        part = config.get(key)
        inner = part.get("model_type") if isinstance(part, dict) else None
        if isinstance(inner, str):
            fields |= architectures.fields(inner)
    return fields


def _first_int(config: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Path and value of the first of `keys` with a positive number, nested parts included.

    The value is the maximum if there is a list with a number for each layer (hunyuan).
    """
    for key in keys:
        value = config.get(key)
        found = [_number(n) for n in (value if isinstance(value, list) else [value])]
        if any(found):
            return (key,), max(found)
    for outer in _NESTED:
        nested = config.get(outer)
        if isinstance(nested, dict):
            path, value = _first_int(nested, keys)
            if path:
                return (outer, *path), value
    return (), 0


def _number(value: object) -> int:
    """Return a positive number; 0 for any other value."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_NUMBER:
        return value
    return 0


def _of_architecture(
    config: Mapping[str, Any], fields: Mapping[str, Any], keys: tuple[str, ...]
) -> tuple[tuple[str, ...], int]:
    """Path and value of the one of `keys` that the architecture takes.

    Falls back to the architecture's default if config.json has no value. Keys that the architecture
    does not take are leftovers of another variant. Keys in a part that it takes unparsed (DBRX) are
    not filtered, because its fields do not list them.
    """
    taken = tuple(key for key in keys if not fields or key in fields)
    path, value = _first_int(config, taken)
    if not path:
        path, value = _first_int(_whole(config, fields), keys)
    if path:
        return path, value
    for key in taken:
        if number := _number(fields.get(key)):
            outer = next((k for k in NESTED if isinstance(config.get(k), dict)), None)
            return (outer, key) if outer else (key,), number
    return (), 0


def _whole(config: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: config[key] for key in _WHOLE if key in config and key in fields}


def _most_experts(config: Mapping[str, Any], model_type: str, experts: int, total: int) -> int:
    """Number of experts that the router can select from: those in the groups that it keeps."""
    if model_type in _FIXED_ROUTERS:
        return experts
    groups = _first_int(config, _GROUP_KEYS)[1]
    kept = _first_int(config, _KEPT_GROUP_KEYS)[1]
    return kept * (total // groups) if groups > 1 and kept else total


def _check_counts(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Reject impossible numbers of layers or experts, which would exhaust the worker's memory."""
    layers = _first_int(config, _LAYER_KEYS)[1]
    if layers > max(MAX_EMPTY_LAYERS, len(tensors)):
        words = f"has {layers} layers, but the weights have only {len(tensors)} tensors"
        raise _invalid(path / "config.json", words)
    experts = _first_int(config, _EXPERT_TOTAL_KEYS)[1]
    if experts > MAX_EXPERTS:
        words = f"has {experts} experts; the maximum is {MAX_EXPERTS}"
        raise _invalid(path / "config.json", words)


def _kv_bytes_per_token(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """layers x key-value heads x head dimension x 2 x bytes per value; 0 if unknown."""

    def value(*keys: str) -> int:
        return _first_int(config, keys)[1]

    layers = value(*_LAYER_KEYS)
    heads = value("num_attention_heads", "n_head", "n_heads")
    kv_heads = value("num_key_value_heads", "n_head_kv") or heads
    hidden = value("hidden_size", "n_embd", "d_model")
    head_dim = value("head_dim") or (hidden // heads if heads else 0)
    # The cache has the dtype of the activations: the dtype of most unquantised bytes.
    floats = dict.fromkeys(_DTYPE_BYTES, 0)
    for tensor in tensors.values():
        if tensor.dtype in floats:
            floats[tensor.dtype] += tensor.size
    dtype = max(floats, key=lambda d: floats[d]) if any(floats.values()) else "F16"
    return min(layers * kv_heads * head_dim * 2 * _DTYPE_BYTES[dtype], MAX_NUMBER)

"""LM Studio's presets, and its saved defaults of models.

`config-presets/NAME.preset.json` and `.internal/user-concrete-model-default-config/PUBLISHER/NAME`
with `.json` have `operation.fields` and `load.fields`: lists of {key, value}, in which an optional
value is {checked, value}; that of the KV cache's quantization is {enabled, bits, groupSize,
quantizedStart}. LM Studio documents none of this; published tools read it this way.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.cli.importing.found import Found, read_json
from reconciler.core.footprint import KV_BITS, KV_GROUP

PRESETS = "config-presets"
MODELS = Path(".internal") / "user-concrete-model-default-config"

DEFAULTS = {
    "llm.prediction.systemPrompt": "system_prompt",
    "llm.prediction.temperature": "temperature",
    "llm.prediction.topPSampling": "top_p",
    "llm.prediction.topKSampling": "top_k",
    "llm.prediction.minPSampling": "min_p",
    "llm.prediction.repeatPenalty": "repetition_penalty",
    "llm.prediction.maxPredictedTokens": "max_tokens",
}

CONFIG = {
    "llm.load.contextLength": "context_length",
    "llm.load.evalBatchSize": "eval_batch_size",
    "llm.load.llama.evalBatchSize": "eval_batch_size",
    "llm.load.llama.flashAttention": "flash_attention",
    "llm.load.numExperts": "num_experts",
    "llm.load.offloadKVCacheToGpu": "offload_kv_cache_to_gpu",
}

KV_CACHE = "llm.load.mlx.kvCacheQuantization"


def found(root: Path) -> Iterator[Found]:
    """Read all presets and all defaults of models, in the order of their file names."""
    for path in sorted((root / PRESETS).glob("*.json")):
        name = path.name.removesuffix(".json").removesuffix(".preset")
        yield _read(path, path.name, name, None)
    for path in sorted((root / MODELS).rglob("*.json")):
        key = path.relative_to(root / MODELS).as_posix().removesuffix(".json")
        gguf = key.lower().endswith(".gguf")
        name = key.rpartition("/")[0] if gguf else key
        yield _read(path, key, name, None if gguf else key)


def _read(path: Path, origin: str, name: str, model: str | None) -> Found:
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        return Found(origin, (name,), problem=str(error))
    title = content.get("name")
    names = (name, title) if isinstance(title, str) and title else (name,)
    values = dict(_fields(content))
    defaults = {DEFAULTS[key]: value for key, value in values.items() if key in DEFAULTS}
    config = {CONFIG[key]: value for key, value in values.items() if key in CONFIG}
    left_out = tuple(key for key in values if key not in DEFAULTS and key not in CONFIG)
    if (bits := _kv_cache_bits(values.get(KV_CACHE))) is not None:
        config["kv_cache_bits"] = bits
        left_out = tuple(key for key in left_out if key != KV_CACHE)
    if not (defaults or config or left_out):
        return Found(origin, names, problem="it sets nothing")
    return Found(origin, names, model, config, defaults, left_out)


def _fields(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values that are set; disabled and empty values are skipped."""
    for part in ("operation", "load"):
        section = content.get(part)
        entries = section.get("fields") if isinstance(section, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
                continue
            value = entry.get("value")
            if isinstance(value, dict) and "checked" in value:
                value = value.get("value") if value["checked"] is True else None
            if isinstance(value, dict) and value.get("enabled") is False:
                value = None
            if value is not None and value != "":
                yield entry["key"], value


def _kv_cache_bits(value: Any) -> int | None:
    """Bits of a quantized KV cache; None if it is not quantized, or not as here."""
    if not isinstance(value, dict) or value.get("groupSize", KV_GROUP) != KV_GROUP:
        return None
    bits = value.get("bits")
    return int(bits) if bits in KV_BITS else None

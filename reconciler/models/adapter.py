"""Read facts from a LoRA adapter in mlx_lm.lora's format, without reading weights or using MLX.

An adapter is a directory with adapter_config.json and adapters.safetensors. The values that the
worker's mlx_lm takes from the config are bounded here: it allocates arrays of the configured rank
before it compares their shapes with the weights.
"""

import json
from pathlib import Path
from typing import Any, TypeGuard

from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Adapter
from reconciler.models.contents import files_of, fingerprint_of
from reconciler.models.files import as_text, error_of, faulty, invalid, is_directory, is_file
from reconciler.models.jsonfile import lenient_object, read_object
from reconciler.models.weights import Tensor, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"

TYPES = ("lora", "dora", "full")
"""Fine-tuning types of mlx_lm.lora."""

MAX_RANK = 65_536
MAX_LAYERS = 100_000


def is_adapter(path: Path) -> bool:
    """True if the directory holds an adapter and no model."""
    return is_file(path / CONFIG) and not is_file(path / "config.json")


def read_adapter(path: Path) -> Adapter:
    """Read the facts of the adapter in directory `path`.

    Raises `LoadError` `InvalidAdapter` with the file and its fault, whatever the files contain.
    """
    try:
        return _read_adapter(path)
    except Exception as error:  # noqa: BLE001  hostile files and names can raise any exception
        raise error_of(error, path, Reason.INVALID_ADAPTER, "adapter") from None


def _read_adapter(path: Path) -> Adapter:
    path = path.resolve()
    if not is_directory(path):
        raise _invalid(path, "no such directory")
    config = _read_config(path / CONFIG)
    if not is_file(path / WEIGHTS):
        other = next(path.glob("adapter_model.*"), None)
        hint = f"; {other.name} is in PEFT's format, convert it to mlx_lm's" if other else ""
        raise _invalid(path / WEIGHTS, f"missing: an adapter needs this file{hint}")
    kind = config.get("fine_tune_type", "lora")
    if kind not in TYPES:
        words = f"fine_tune_type must be one of {', '.join(TYPES)}, got {json.dumps(kind)[:60]}"
        raise _invalid(path / CONFIG, words)
    files = files_of(path)
    header = read_header(path / WEIGHTS)
    if not header:
        raise _invalid(path / WEIGHTS, "contains no tensors")
    if kind != "full":
        _check_lora(path, config, header)
    return Adapter(
        str(path),
        fingerprint_of(files),
        sum(tensor.size for tensor in header.values()),
        _base(config),
    )


def base_of(path: Path) -> str:
    """The adapter's base model as a phrase for messages."""
    return _base(lenient_object(path / CONFIG)) or "a model that its config does not name"


def _base(config: dict[str, Any]) -> str | None:
    base = config.get("model")
    return as_text(base) if isinstance(base, str) else None


def _check_lora(path: Path, config: dict[str, Any], header: dict[str, Tensor]) -> None:
    """Reject values that make mlx_lm fail without a clear error or allocate too much memory."""
    place, layers = path / CONFIG, config.get("num_layers")
    if not _is_whole(layers, -1, MAX_LAYERS):
        raise _invalid(place, "num_layers must be the number of layers with an adapter")
    lora = config.get("lora_parameters")
    if not isinstance(lora, dict):
        peft = "; it is in PEFT's format, convert it to mlx_lm's" if "peft_type" in config else ""
        raise _invalid(place, f"lora_parameters is missing{peft}")
    rank = lora.get("rank")
    if not _is_whole(rank, 1, MAX_RANK):
        raise _invalid(place, f"lora_parameters.rank must be from 1 to {MAX_RANK}")
    if not _is_number(lora.get("scale")):
        raise _invalid(place, "lora_parameters.scale must be a number")
    dropout = lora.get("dropout")
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise _invalid(place, "lora_parameters.dropout must be from 0 to less than 1")
    keys = lora.get("keys")
    if keys is not None and not (isinstance(keys, list) and all(isinstance(k, str) for k in keys)):
        raise _invalid(place, "lora_parameters.keys must be a list of layer names")
    for name, tensor in header.items():
        if name.endswith(".lora_a") and rank not in tensor.shape:
            words = f"{name} has shape {tensor.shape}, not the rank {rank} of {CONFIG}"
            raise _invalid(path / WEIGHTS, words)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        raise _invalid(path, "missing: an adapter needs this file") from None
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(path, error) from None


def _invalid(path: Path, words: str) -> LoadError:
    return invalid(Reason.INVALID_ADAPTER, "adapter", path, words)

"""Quantization and number of a checkpoint's weights.

MLX's own format: `X.weight` holds weights packed into uint32 words, beside `X.scales` (and
`X.biases` in affine mode). config.json's `quantization` has the default group size, bits and mode,
and entries for layers that differ. If a layer differs without an entry, mlx_lm infers its bits from
the shapes (`infer_quant_config`), and so does this module.

The other supported formats are those that `mlx_lm.utils.load_model` converts during a load; it
rejects all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.core.facts import Quantization
from reconciler.models.weights import Tensor

WORD_BITS = 32
"""Bits of a uint32, the unit into which MLX packs weights."""

AFFINE = "affine"

_MODES = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
"""Modes with one-byte scales, by bits and group size."""

_AFFINE_BITS = (2, 3, 4, 5, 6, 8)
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PACKED_DTYPES = ("I8", "U8", "I32", "U32", "F8_E4M3", "F8_E5M2")

_NO_WEIGHTS = (
    "scale",
    "scales",
    "scale_inv",
    "scale_2",
    "biases",
    "qzeros",
    "g_idx",
    "weight_shape",
    "zero_point",
)
"""Name suffixes of arrays that accompany quantized weights but are not weights."""


@dataclass(frozen=True)
class Weights:
    """Number and quantization of the weights."""

    parameters: int
    quantization: Quantization | None


@dataclass(frozen=True)
class _Layer:
    bits: int
    mode: str
    weights: int


def read_weights(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], separate: Mapping[str, Any]
) -> Weights:
    """Count the weights and determine their quantization.

    `separate` is hf_quant_config.json, in which NVIDIA's exports keep what others have in config.
    """
    own = config.get("quantization")
    layers = _layers(own if isinstance(own, dict) else {}, tensors)
    if layers:
        packed = {f"{path}.weight" for path in layers}
        rest = {
            name: tensor
            for name, tensor in tensors.items()
            if name not in packed and name.rpartition(".")[0] not in layers
        }
        biases = {f"{path}.bias" for path in layers}
        rest |= {name: tensor for name, tensor in tensors.items() if name in biases}
        count = sum(layer.weights for layer in layers.values()) + _floats(rest)
        return Weights(count, _named(list(layers.values())))
    named = _other_format(config, separate)
    if named is None:
        return Weights(_floats(tensors), None)
    rest = {k: t for k, t in tensors.items() if not k.endswith(_NO_WEIGHTS)}
    packed_bytes = sum(t.size for t in rest.values() if t.dtype in _PACKED_DTYPES)
    return Weights(int(packed_bytes * 8 / named.bits) + _floats(rest), named)


def _layers(own: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, _Layer]:
    """Layers with weights in MLX's packed format, by path."""
    layers = {}
    for name, scales in tensors.items():
        path, _, last = name.rpartition(".")
        weight = tensors.get(f"{path}.weight")
        if last != "scales" or weight is None or weight.dtype != "U32":
            continue
        if not (weight.shape and scales.shape and scales.shape[-1]):
            continue
        entry = own.get(path)
        bits, mode = _bits_and_mode(own, entry if isinstance(entry, dict) else {}, weight, scales)
        layers[path] = _Layer(bits, mode, weight.size * 8 // bits)
    return layers


def _bits_and_mode(
    own: Mapping[str, Any], entry: Mapping[str, Any], weight: Tensor, scales: Tensor
) -> tuple[int, str]:
    """Bits and mode of one layer.

    The shapes give the bits of a group; config.json, their division into weights.
    """
    group_bits = weight.shape[-1] * WORD_BITS // scales.shape[-1]
    if scales.dtype == "U8":
        for (bits, group_size), mode in _MODES.items():
            if bits * group_size == group_bits:
                return bits, mode
    default = own.get("group_size")
    pairs = [
        (entry.get("bits"), entry.get("group_size", default)),
        (own.get("bits"), default),
        *((group_bits // g, g) for g in (default, 64, 32, 128) if isinstance(g, int) and g > 0),
    ]
    for named, size in pairs:
        if named in _AFFINE_BITS and isinstance(size, int) and named * size == group_bits:
            return int(named), AFFINE
    return 4, AFFINE


def _named(layers: list[_Layer]) -> Quantization:
    """`4bit`, `4.5bit` for mixed bits, or the mode of most of the weights."""
    total = sum(layer.weights for layer in layers) or 1
    mean = round(sum(layer.bits * layer.weights for layer in layers) / total, 2)
    mean = int(mean) if mean.is_integer() else mean
    by_mode: dict[str, int] = {}
    for layer in layers:
        by_mode[layer.mode] = by_mode.get(layer.mode, 0) + layer.weights
    mode = max(by_mode, key=lambda m: by_mode[m])
    return Quantization(f"{mean:g}bit" if mode == AFFINE else mode, mean)


def _other_format(config: Mapping[str, Any], separate: Mapping[str, Any]) -> Quantization | None:
    """Quantization in another format that mlx_lm loads, named as it is after the load."""
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    found = config.get("quantization_config") or nested or separate
    if not isinstance(found, dict):
        return None
    method, bits = found.get("quant_method"), found.get("bits", 4)
    if method in ("mxfp4", "mxfp8"):
        return Quantization(method, 4 if method == "mxfp4" else 8)
    if method == "fp8":
        packed = found.get("scale_fmt") == "ue8m0" and found.get("weight_block_size") == [32, 32]
        return Quantization("mxfp8" if packed else "fp8", 8)
    if method == "compressed-tensors":
        kind = str(found.get("format")).removesuffix("-pack-quantized")
        return Quantization(kind if kind in ("nvfp4", "mxfp4") else "4bit", 4)
    if method == "modelopt" or (found is separate and found):
        return Quantization("nvfp4", 4)
    if method == "bitnet":
        return Quantization("bitnet", 2)
    if method in ("awq", "gptq") and type(bits) is int and 0 < bits <= WORD_BITS:
        return Quantization(f"{bits}bit", bits)
    return None


def _floats(tensors: Mapping[str, Tensor]) -> int:
    """Number of weights that are not packed."""
    return sum(t.size // _FLOAT_BYTES[t.dtype] for t in tensors.values() if t.dtype in _FLOAT_BYTES)

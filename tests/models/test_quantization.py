"""Third-party quantisation formats; test_parity.py compares MLX's own with MLX."""

from typing import Any

import pytest

from reconciler.core.facts import Quantization
from reconciler.models.quantization import read_weights
from reconciler.models.weights import Tensor

PLAIN = Tensor("BF16", (10,), 20)


def packed(dtype: str, size: int) -> Tensor:
    return Tensor(dtype, (1, size), size)


FORMATS: dict[str, tuple[dict[str, Any], dict[str, Tensor], Quantization, int]] = {
    "gpt-oss": (
        {"quant_method": "mxfp4"},
        {"a_blocks": packed("U8", 50), "a_scales": packed("U8", 5)},
        Quantization("mxfp4", 4),
        100,
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"a.weight": packed("F8_E4M3", 100), "a.weight_scale_inv": Tensor("F32", (1,), 4)},
        Quantization("fp8", 8),
        100,
    ),
    "fp8 that stays packed": (
        {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]},
        {"a.weight": packed("F8_E4M3", 100), "a.weight_scale_inv": packed("U8", 4)},
        Quantization("mxfp8", 8),
        100,
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4},
        {
            "a.qweight": packed("I32", 48),
            "a.qzeros": packed("I32", 8),
            "a.scales": Tensor("F16", (4,), 8),
        },
        Quantization("4bit", 4),
        96,
    ),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        {"a.weight_packed": packed("U8", 50), "a.weight_scale": packed("F8_E4M3", 5)},
        Quantization("nvfp4", 4),
        100,
    ),
    "bitnet": (
        {"quant_method": "bitnet"},
        {"a.weight": packed("U8", 25), "a.weight_scale": Tensor("BF16", (1,), 2)},
        Quantization("bitnet", 2),
        100,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_third_party_formats_are_named_and_counted(name: str) -> None:
    config, tensors, expected, parameters = FORMATS[name]
    weights = read_weights({"quantization_config": config}, tensors | {"norm": PLAIN}, {})
    assert weights.quantization == expected
    assert weights.parameters == parameters + 10
    nested = {"text_config": {"quantization_config": config}}
    assert read_weights(nested, tensors, {}).quantization == expected


def test_nvidias_exports_keep_it_in_a_separate_file() -> None:
    separate = {"quantization": {"quant_algo": "NVFP4"}}
    assert read_weights({}, {"a": PLAIN}, separate).quantization == Quantization("nvfp4", 4)


def test_a_mixture_is_named_by_the_mode_of_most_weights() -> None:
    """LM Studio publishes gpt-oss with mxfp4 experts and 8-bit affine attention."""
    tensors = {
        "experts.weight": Tensor("U32", (96, 4), 1536),
        "experts.scales": Tensor("U8", (96, 1), 96),
        "q.weight": Tensor("U32", (32, 8), 1024),
        "q.scales": Tensor("BF16", (32, 1), 64),
        "q.biases": Tensor("BF16", (32, 1), 64),
        "q.bias": Tensor("BF16", (32,), 64),
    }
    own = {"group_size": 32, "bits": 4, "mode": "mxfp4", "q": {"group_size": 32, "bits": 8}}
    weights = read_weights({"quantization": own}, tensors, {})
    assert weights.quantization == Quantization("mxfp4", 5)
    assert weights.parameters == 96 * 32 + 32 * 32 + 32


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quantization": []},
        {"quantization_config": "x"},
        {"quantization_config": {"quant_method": "awq", "bits": 0}},
        {"quantization_config": {"quant_method": ["x"]}},
        {"text_config": 5},
    ],
)
def test_a_config_without_quantization_is_not_quantized(config: dict[str, Any]) -> None:
    weights = read_weights(config, {"norm": PLAIN}, {})
    assert (weights.quantization, weights.parameters) == (None, 10)


def test_the_count_is_bounded_by_file_size_not_by_header_claims() -> None:
    tensors = {
        "a.weight": Tensor("U32", (10**40, 10**5), 4),
        "a.scales": Tensor("F32", (1, 10**40), 4),
    }
    assert read_weights({"quantization": {"bits": 4}}, tensors, {}).parameters == 8


def test_an_invalid_number_of_bits_is_not_shown() -> None:
    config = {"quantization_config": {"quant_method": "awq", "bits": True}}
    assert read_weights(config, {}, {}).quantization is None

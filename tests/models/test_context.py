"""Maximum context lengths in published configurations."""

from typing import Any

import pytest

from reconciler.models.architectures import fields
from reconciler.models.context import max_context

QWEN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama 3.1": (
        {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
            },
        },
        131072,
    ),
    "Llama 3.2": (
        {
            "model_type": "llama",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 32.0,
                "original_max_position_embeddings": 8192,
            },
        },
        131072,
    ),
    "Qwen 2.5 with YaRN": (
        {"model_type": "qwen2", "max_position_embeddings": 32768, "rope_scaling": QWEN},
        131072,
    ),
    "Qwen 3 with YaRN": (
        {"model_type": "qwen3", "max_position_embeddings": 40960, "rope_scaling": QWEN},
        131072,
    ),
    "Qwen 3 as transformers 5 writes it": (
        {
            "model_type": "qwen3",
            "max_position_embeddings": 40960,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000000,
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            },
        },
        131072,
    ),
    "DeepSeek V3": (
        {
            "model_type": "deepseek_v3",
            "max_position_embeddings": 163840,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
            },
        },
        163840,
    ),
    "gpt-oss": (
        {
            "model_type": "gpt_oss",
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
            },
        },
        131072,
    ),
    "Phi 3.5": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
        },
        131072,
    ),
    "Gemma 3": (
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        },
        131072,
    ),
    "Gemma 3, which leaves it to the architecture": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}},
        32768,
    ),
    "linear, from the length of the training": (
        {
            "model_type": "llama",
            "max_position_embeddings": 4096,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
        16384,
    ),
    "dynamic": (
        {
            "model_type": "internlm2",
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        65536,
    ),
    "scaling that mlx_lm does not apply": (
        {"model_type": "gemma2", "max_position_embeddings": 8192, "rope_scaling": QWEN},
        8192,
    ),
    "Command R": (
        {"model_type": "cohere", "max_position_embeddings": 8192, "model_max_length": 131072},
        131072,
    ),
    "GPT-2": ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, 1024),
    "DBRX": ({"model_type": "dbrx", "max_seq_len": 32768}, 32768),
    "a nested one before the outer one": (
        {
            "model_type": "mistral3",
            "max_position_embeddings": 1,
            "text_config": {"model_type": "llama", "max_position_embeddings": 77},
        },
        77,
    ),
    "the architecture's default": ({"model_type": "phi"}, 2048),
    "the default of the model inside": ({"model_type": "kimi_k25"}, 2048),
}


def context(config: dict[str, Any], tokenizer_limit: object = None) -> int | None:
    inner = config.get("text_config", {}).get("model_type", config["model_type"])
    taken = {**fields(config["model_type"]), **fields(inner)}
    return max_context(config, taken, tokenizer_limit)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lengths_are_read(name: str) -> None:
    config, expected = PUBLISHED[name]
    assert context(config) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(16384, 16384), (None, 65536), (10**30, 65536), (512, 65536)]
)
def test_a_tokenizers_limit_distinguishes_an_extended_length_from_a_trained_one(
    limit: object, expected: int
) -> None:
    """DeepSeek Coder's 16,384 with a factor of 4 is the length after scaling."""
    scaling = {"type": "linear", "factor": 4.0}
    config = {"model_type": "llama", "max_position_embeddings": 16384, "rope_scaling": scaling}
    assert context(config, limit) == expected


@pytest.mark.parametrize("length", [0, -1, True, "4096", None, 10**30, [4096], {}, 1.5], ids=repr)
def test_an_invalid_length_is_none(length: object) -> None:
    assert context({"model_type": "llama", "max_position_embeddings": length}) is None


@pytest.mark.parametrize("factor", [0, -4, "4", None, float("nan"), float("inf"), 10**300, []])
def test_an_invalid_factor_is_ignored(factor: object) -> None:
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": 4096}
    config = {"model_type": "llama", "max_position_embeddings": 4096, "rope_scaling": scaling}
    assert context(config) == 4096

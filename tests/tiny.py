"""Makes small real checkpoints: `python -m tests.tiny [NAME DIRECTORY]...`.

Real architectures, random weights from a fixed seed, a real tokenizer and chat template, for
tests and benchmarks, which download no models.
"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, quantize_model, save_config, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 320
_CORPUS = (
    "A record says what is wanted. An instance is what is loaded.",
    "The loop compares records with instances and makes them agree.",
    "What is asked for is honoured, or the answer says why it is not.",
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
}
# Experts are float32 because MLX's gather_mm is float32 only on its CPU backend.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-4bit": {"model_type": "llama"},
    "qwen3": {"model_type": "qwen3"},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 8,
        "num_experts_per_tok": 4,
        "intermediate_size": 64,
        "sliding_window": 128,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": 131072,
    },
    # Its own attention, with soft caps.
    "gemma2": {"model_type": "gemma2"},
    # A latent KV cache.
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
    },
    # A recurrent state instead of a KV cache.
    "mamba": {
        "model_type": "mamba",
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
}


def config(name: str) -> dict[str, Any]:
    """The config.json of the checkpoint `name`, a key of CONFIGS."""
    return _BASE | CONFIGS[name]


def make(name: str, directory: Path) -> None:
    """Write the checkpoint `name`, a key of CONFIGS, into `directory`."""
    write(config(name), directory, bits=4 if name.endswith("-4bit") else None)


def write(config: dict[str, Any], directory: Path, bits: int | None = None) -> None:
    """Write a checkpoint of that config.json into `directory`, quantised if `bits` are given."""
    write_with(config, directory, _random, _tokenizer(), bits, group=32)


def write_with(
    config: dict[str, Any],
    directory: Path,
    random: Callable[[mx.array], mx.array],
    tokenizer: PreTrainedTokenizerFast,
    bits: int | None,
    *,
    group: int,
) -> int:
    """Write a checkpoint; return the size of its weights [bytes].

    `random` makes a weight in place of an empty one; `group`: values that share a scale.
    """
    directory.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.load_weights([(k, random(v)) for k, v in tree_flatten(model.parameters())])
    if bits is not None:
        model, config = quantize_model(model, config, group_size=group, bits=bits)
    save_model(directory, model)
    save_config(config, directory / "config.json")
    tokenizer.save_pretrained(directory)
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def _random(weight: mx.array) -> mx.array:
    """Random values for a weight; packed weights stay unchanged."""
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    return 0.1 * mx.random.normal(weight.shape)


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return new_tokenizer()


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of at most `VOCABULARY` tokens, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=_CHAT_TEMPLATE
    )


if __name__ == "__main__":
    pairs = sys.argv[1:]
    for architecture, target in zip(pairs[::2], pairs[1::2], strict=True):
        make(architecture, Path(target))

"""Architectures whose language model has a configuration of its own, as with images or sound."""

from typing import Any

from tests.architectures.parts import (
    COMMON,
    DELTA,
    EXPERTS,
    GEMMA3,
    GEMMA4,
    LATENT,
    LFM2,
    LLAMA4,
    SLIDING,
    VOCABULARY,
    YARN,
)

NESTED: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": COMMON | GEMMA3},
    "gemma3n": {
        "text_config": {
            **COMMON,
            **SLIDING,
            "model_type": "gemma3n_text",
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": 30.0,
            "activation_sparsity_pattern": [0.5] * 4,
            "altup_num_inputs": 2,
            "altup_coef_clip": 100.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 8,
        }
    },
    "gemma4": {"text_config": COMMON | GEMMA4},
    "kimi_k25": {"text_config": COMMON | EXPERTS | LATENT | {"model_type": "deepseek_v3"}},
    "kimi_k3": {
        "text_config": {
            **COMMON,
            **EXPERTS,
            **LATENT,
            "model_type": "kimi_linear",
            "linear_attn_config": {
                "num_heads": 4,
                "head_dim": 16,
                "kda_layers": [1, 3],
                "full_attn_layers": [2, 4],
                "short_conv_kernel_size": 4,
            },
            "num_experts_per_token": 2,
        }
    },
    "kimi_vl": {"text_config": COMMON | EXPERTS | LATENT | {"model_type": "deepseek_v3"}},
    "lfm2-vl": {"text_config": COMMON | LFM2},
    "llama4": {"text_config": COMMON | LLAMA4},
    "minimax_m3_vl": {
        "text_config": {
            **COMMON,
            **EXPERTS,
            "model_type": "minimax_m3",
            "intermediate_size": 32,
            "dense_intermediate_size": 96,
            "shared_intermediate_size": 32,
            "moe_layer_freq": [0, 1, 1, 1],
            "sparse_attention_config": {
                "sparse_num_index_heads": 2,
                "sparse_index_dim": 16,
                "sparse_block_size": 8,
                "sparse_topk_blocks": 2,
                "sparse_local_block": 1,
                "sparse_attention_freq": [0, 1, 0, 1],
            },
        }
    },
    "mistral3": {"text_config": COMMON | {"model_type": "ministral3", "rope_parameters": YARN}},
    "muse_spark": {
        "audio_config": {"out_hidden_size": 64},
        "text_config": {
            **COMMON,
            **EXPERTS,
            **SLIDING,
            "num_shared_experts": 0,
            "post_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": 10000.0},
            "layer_rope_theta": [10000.0, 0.0] * 2,
            "final_logit_softcapping": 20.0,
            "output_multiplier": 0.2,
            "moe_hidden_size": 64,
        },
    },
    "pixtral": {"text_config": COMMON | {"model_type": "mistral"}},
    "prism_hadamard_qwen35": {
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": "model.embed_tokens",
                "embedding": True,
                "dtype": "float16",
                "block": 0,
            }
        ],
        "text_config": COMMON | DELTA | {"hidden_size": 128, "model_type": "qwen3_5_text"},
    },
    "qwen2_vl": {"text_config": COMMON | {"model_type": "qwen2"}},
    "qwen3_5": {"text_config": COMMON | DELTA | {"model_type": "qwen3_5_text"}},
    "qwen3_5_moe": {"text_config": COMMON | EXPERTS | DELTA},
    "qwen3_vl": {"text_config": COMMON | {"model_type": "qwen3"}},
    "qwen3_vl_moe": {"text_config": COMMON | EXPERTS | {"model_type": "qwen3_moe"}},
}

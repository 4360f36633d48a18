"""Makes small real embedding models: a tiny decoder with the files of sentence-transformers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import _get_classes, load_config, load_model
from tokenizers import processors
from transformers import AutoTokenizer

from tests import tiny

END = "<|end|>"

QUERY = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)

PROMPTS = {"query": QUERY, "document": ""}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "gemma3_text": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3TextModel"],
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
        "num_hidden_layers": 4,
    },
}


def make(
    name: str,
    directory: Path,
    *,
    pooling: str = "lasttoken",
    modules: tuple[str, ...] = ("Normalize",),
    bare: bool = False,
    settings: dict[str, Any] | None = None,
    max_tokens: int | None = None,
    **config: Any,
) -> Path:
    """Write an embedding model with an architecture of ARCHITECTURES.

    Its tokenizer adds an end token, as Qwen3-Embedding's does. With `bare`, tensors have the names
    of a model that was saved without its head. `settings` go into
    config_sentence_transformers.json, `config` into config.json.
    """
    tiny.write(tiny._BASE | ARCHITECTURES[name] | config, directory)
    _add_end_token(directory)
    if bare:
        _drop_head(directory)
    sentences = "sentence_transformers.models"
    listed = [
        {"idx": 0, "name": "0", "path": "", "type": f"{sentences}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{sentences}.Pooling"},
    ]
    width = tiny._BASE["hidden_size"]
    for place, module in enumerate(modules, start=2):
        folder = f"{place}_{module}"
        (directory / folder).mkdir()
        kind = f"{sentences}.{module}"
        listed.append({"idx": place, "name": str(place), "path": folder, "type": kind})
        if module == "Dense":
            _write_dense(directory / folder, width, width // 2)
            width //= 2
    _write(directory / "modules.json", listed)
    modes = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"), False)
    modes |= dict.fromkeys(("weightedmean_tokens", "lasttoken"), False)
    for mode in pooling.split("+"):
        modes[
            next(key for key in modes if key.removesuffix("_tokens").removesuffix("_token") == mode)
        ] = True
    pool = {f"pooling_mode_{mode}": on for mode, on in modes.items()}
    (directory / "1_Pooling").mkdir()
    pool |= {"word_embedding_dimension": tiny._BASE["hidden_size"], "include_prompt": True}
    _write(directory / "1_Pooling" / "config.json", pool)
    prompts = {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _write(directory / "config_sentence_transformers.json", prompts | (settings or {}))
    if max_tokens is not None:
        texts = {"max_seq_length": max_tokens, "do_lower_case": False}
        _write(directory / "sentence_bert_config.json", texts)
    return directory


def _add_end_token(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    backend = tokenizer.backend_tokenizer
    token = backend.token_to_id(END)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=None, special_tokens=[(END, token)]
    )
    tokenizer.pad_token = END
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(directory)


def _drop_head(directory: Path) -> None:
    file = directory / "model.safetensors"
    weights: Any = mx.load(str(file))
    kept = {k.removeprefix("model."): v for k, v in weights.items() if not k.startswith("lm_head")}
    mx.eval(kept)
    file.unlink()
    mx.save_safetensors(str(file), kept, metadata={"format": "pt"})
    (directory / "model.safetensors.index.json").unlink()


def _write_dense(directory: Path, inputs: int, outputs: int) -> None:
    weight = 0.1 * mx.random.normal((outputs, inputs))
    mx.save_safetensors(
        str(directory / "model.safetensors"), {"linear.weight": weight}, metadata={"format": "pt"}
    )
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(directory / "config.json", config)


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), "utf-8")


def tokens_of(directory: Path, text: str) -> list[int]:
    """Tokens of a text, with those that transformers' tokenizer adds."""
    return [int(token) for token in AutoTokenizer.from_pretrained(directory)(text)["input_ids"]]


def reference(directory: Path, text: str) -> Any:
    """Vector of one text by mlx_lm's model, unbatched and without padding: the last token's hidden
    state, normalized to length 1.
    """
    model = decoder(directory)
    hidden = model.model(mx.array([tokens_of(directory, text)]))[0, -1]
    return np.array(hidden / mx.linalg.norm(hidden))


@cache
def decoder(directory: Path) -> Any:
    """mlx_lm's model with the weights of the checkpoint, with either form of tensor names."""
    config = load_config(directory)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    weights: Any = mx.load(str(directory / "model.safetensors"))
    inner = [(name.removeprefix("model."), weight) for name, weight in weights.items()]
    model.model.load_weights([(k, w) for k, w in inner if not k.startswith("lm_head")])
    return model


def make_reranker(directory: Path) -> Path:
    """Write a reranker with tokens for yes and no; the directory's name must identify it as one."""
    config = {"vocab_size": tiny.VOCABULARY + 2}
    tiny.write(tiny._BASE | ARCHITECTURES["qwen3"] | config, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.add_tokens(["yes", "no"]) == 2
    tokenizer.save_pretrained(directory)
    return directory


def relevance(directory: Path, prompt: list[str]) -> float:
    """Probability of yes over yes and no after a prompt's parts, by mlx_lm's model alone."""
    model, _ = load_model(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in prompt]
    tokens = [token for part in parts for token in part]
    logits = model(mx.array([tokens]))[0, -1]
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    return float(np.array(mx.softmax(logits[mx.array(answers)]))[1])

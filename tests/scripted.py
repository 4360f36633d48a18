"""Makes small real checkpoints that answer one request with a given text.

A gpt2 whose layers output zero: the embedding of each position alone determines the next token,
regardless of earlier ones. The length of the prompt must therefore be known, so the prompt is built
here with the worker's code. Requests must be greedy (`temperature` 0).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.utils import load_tokenizer, save_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reconciler.worker import request
from reconciler.worker.prompt import Prompts

MARK = re.compile(r"<[^<>\s\"']{2,40}>|\[/?[A-Z_]{3,20}\]")
"""Marks of a chat template that become single tokens of its tokenizer."""

POSITIONS = 4096


def make(
    directory: Path, template: str, body: dict[str, Any], answer: str, *, end: str = "<EOS>"
) -> None:
    """Write a checkpoint with a chat template that answers the chat request `body` with `answer`.

    `end` is the token that ends the answer. Each mark in the template is one token.
    """
    directory.mkdir(parents=True)
    marks = list(dict.fromkeys([end, *MARK.findall(template)]))
    byte_tokenizer(marks, template, end).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    tokenizer = load_tokenizer(directory)
    vocabulary = len(tokenizer.get_vocab())
    parsed = request.parse(msgspec.json.encode(body))
    prompt = Prompts(tokenizer, vocabulary, rewinds=True).build(parsed, POSITIONS, chat=True)
    script = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    begin = len(prompt.tokens) - 1
    assert begin + len(script) <= POSITIONS
    positions = mx.zeros((POSITIONS, vocabulary))
    for i, token in enumerate(script):
        positions[begin + i, token] = 100.0
    config = {
        "model_type": "gpt2",
        "n_ctx": POSITIONS,
        "n_positions": POSITIONS,
        "n_embd": vocabulary,
        "n_head": 1,
        "n_layer": 1,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
    }
    weights = dict(_weights(vocabulary)) | {"model.wpe.weight": positions}
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    save_config(config, directory / "config.json")


def _weights(size: int) -> Iterator[tuple[str, mx.array]]:
    """Weights with one-hot tokens and a layer that outputs zero."""
    yield "model.wte.weight", mx.eye(size)
    yield "model.ln_f.weight", mx.ones(size)
    yield "model.ln_f.bias", mx.zeros(size)
    for name, wide, out in (
        ("attn.c_attn", size, 3 * size),
        ("attn.c_proj", size, size),
        ("mlp.c_fc", size, 4 * size),
        ("mlp.c_proj", 4 * size, size),
    ):
        yield f"model.h.0.{name}.weight", mx.zeros((out, wide))
        yield f"model.h.0.{name}.bias", mx.zeros(out)
    for name in ("ln_1", "ln_2"):
        yield f"model.h.0.{name}.weight", mx.ones(size)
        yield f"model.h.0.{name}.bias", mx.zeros(size)


def byte_tokenizer(
    marks: list[str], template: str, end: str, *, special: bool = True
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte and per mark; with `special`, marks are not text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(mark, special=special or mark == end) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, chat_template=template
    )

"""Writes checkpoints for benchmarks, from tiny ones to a llama of 3.4 GB. Runs as a script, so that
the measuring process does not import MLX: `python -m benchmarks.checkpoints DIRECTORY`."""

import itertools
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import _byte_decoder
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from benchmarks.agent import MODELS
from tests import architectures
from tests.tiny import CONFIGS, make, write

PROJECT = Path(__file__).resolve().parents[1]

LAYERS = 12
HIDDEN = 2048
INTERMEDIATE = 8192
VOCABULARY = 32000
"""A llama of 0.8 billion parameters, 3.4 GB in float32, for benchmarks of loading. In bfloat16,
MLX's CPU backend takes longer for the warm-up's single token than for reading the weights."""


AGENT = {"hidden_size": 256, "num_hidden_layers": 8, "head_dim": 64}
"""Sizes with which the prefill of a turn takes tens of milliseconds on a CPU."""

AGENT_WINDOW = 128


MIDDLE: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "gpt_oss": CONFIGS["gpt_oss"]
    | {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 4,
    },
}
"""Models of 20 million parameters in float32, 80 MB: large enough that a token costs more than the
server around the model, small enough for a prompt of thousands of tokens on a CPU."""

MIDDLE_VOCABULARY = 8192

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of Qwen and many others, which every server knows how to render."""


def middle(name: str, directory: Path) -> None:
    """Write a checkpoint of `MIDDLE` with a vocabulary learned from this project's texts."""
    common = {
        "model_type": name,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000,
        "vocab_size": MIDDLE_VOCABULARY,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
    }
    write(common | MIDDLE[name], directory)
    words().save_pretrained(directory)


@cache
def words() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of exactly `MIDDLE_VOCABULARY` tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=MIDDLE_VOCABULARY,
        special_tokens=["<|im_end|>", "<|im_start|>"],
        show_progress=False,
        initial_alphabet=ByteLevel.alphabet(),
    )
    texts = [*(PROJECT / "docs").glob("*.md"), *(PROJECT / "reconciler").rglob("*.py")]
    tokenizer.train(sorted(map(str, texts)), trainer)
    end = tokenizer.id_to_token(0)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, chat_template=CHATML)


def agent(name: str, directory: Path) -> None:
    """Write an architecture of mlx-lm, with sliding windows shorter than a conversation."""
    config = architectures.config(name)
    inner = config.get("text_config", config)
    inner |= AGENT
    if "layer_types" in inner:
        inner["layer_types"] = inner["layer_types"][:2] * (AGENT["num_hidden_layers"] // 2)
    if "sliding_window" in inner:
        inner["sliding_window"] = AGENT_WINDOW
    write(config, directory)


def large(
    directory: Path,
    layers: int = LAYERS,
    hidden: int = HIDDEN,
    intermediate: int = INTERMEDIATE,
    vocabulary: int = VOCABULARY,
) -> None:
    """Write a llama of 3.4 GB. All layers have the same random weights: only their size matters."""
    make("llama", directory)
    config = json.loads((directory / "config.json").read_text("utf-8")) | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "head_dim": 64,
        "vocab_size": vocabulary,
    }
    for old in directory.glob("model*"):
        old.unlink()
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    mx.random.seed(0)

    def matrix(rows: int, columns: int) -> mx.array:
        return 0.02 * mx.random.normal((rows, columns))

    ones = mx.ones((hidden,))
    layer = {
        **{f"self_attn.{name}_proj.weight": matrix(hidden, hidden) for name in "qkvo"},
        "mlp.gate_proj.weight": matrix(intermediate, hidden),
        "mlp.up_proj.weight": matrix(intermediate, hidden),
        "mlp.down_proj.weight": matrix(hidden, intermediate),
        "input_layernorm.weight": ones,
        "post_attention_layernorm.weight": ones,
    }
    shards = {
        "model-00001-of-00002.safetensors": range(layers // 2),
        "model-00002-of-00002.safetensors": range(layers // 2, layers),
    }
    ends = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden),
        "lm_head.weight": matrix(vocabulary, hidden),
        "model.norm.weight": ones,
    }
    placed: dict[str, str] = {}
    for file, numbers in shards.items():
        tensors = {f"model.layers.{n}.{key}": layer[key] for n in numbers for key in layer}
        if 0 in numbers:
            tensors |= ends
        mx.save_safetensors(str(directory / file), tensors, metadata={"format": "mlx"})
        placed |= dict.fromkeys(tensors, file)
    index = json.dumps({"metadata": {}, "weight_map": placed})
    (directory / "model.safetensors.index.json").write_text(index, "utf-8")


def wide(directory: Path, vocabulary: int = 151_936) -> None:
    """Write a tiny llama with as many tokens as Qwen's; most occur in no text."""
    large(directory, layers=2, hidden=64, intermediate=128, vocabulary=vocabulary)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    known = tokenizer["model"]["vocab"]
    known |= {f"<{number}>": number for number in range(len(known), vocabulary)}
    path.write_text(json.dumps(tokenizer), "utf-8")


SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "la",
    "me",
    "ni",
    "po",
    "ru",
    "sta",
    "tre",
    "vi",
    "wo",
    "xen",
    "ing",
    "er",
    "tion",
    "al",
    "ous",
    "é",
    "ü",
    "日",
    "本",
]


def worded(directory: Path, vocabulary: int = 128_000) -> None:
    """Write a small llama with a byte-level vocabulary of words, as large as Llama 3's.

    With 256 dimensions, a CPU takes as long for the last layer as a GPU for a whole small model.
    """
    large(directory, layers=2, hidden=256, intermediate=256, vocabulary=vocabulary)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    known = tokenizer["model"]["vocab"]
    letters = _byte_letters()
    words = ("".join(parts) for n in (2, 3, 4) for parts in itertools.product(SYLLABLES, repeat=n))
    forms = (form for word in words for form in (word, f" {word}", word.title(), f'"{word}"'))
    for form in forms:
        if len(known) == vocabulary:
            break
        known.setdefault("".join(letters[byte] for byte in form.encode()), len(known))
    path.write_text(json.dumps(tokenizer), "utf-8")


def _byte_letters() -> dict[int, str]:
    """Letters that represent bytes in byte-level vocabularies."""
    return {byte: letter for letter, byte in _byte_decoder().items()}


if __name__ == "__main__":
    models = Path(sys.argv[1])
    make("llama", models / "bench/tiny")
    for name in MIDDLE:
        middle(name, models / f"bench/{name}-20m")
    if "--peers" not in sys.argv:
        wide(models / "bench/wide")
        worded(models / "bench/worded")
        for name in MODELS:
            agent(name, models / f"bench/agent-{name}")
    if "--large" in sys.argv:
        large(models / "bench/large")

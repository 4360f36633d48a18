"""What MLX alone does on a GPU: memory bandwidth, and generation without a server.

Runs as a script, so that the measuring process does not import MLX:
`python -m benchmarks.gpu bandwidth|write|generate ...` prints JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step

from benchmarks.checkpoints import MIDDLE_VOCABULARY, words
from tests.tiny import write_with

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": MIDDLE_VOCABULARY,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
"""Llama 3.2 3B with a smaller vocabulary, of which each token is text: 2.8 billion parameters,
5.7 GB in bfloat16, 1.6 GB in 4 bits."""

MATRIX = (16_384, 32_768)
"""Shape of a matrix of 1.1 GB in bfloat16, larger than every cache."""

REPEATS = 10
TOKENS = 256
WARM_UP = 16


def bandwidth() -> dict[str, Any]:
    """The name of the GPU, or None, and the bytes per second that it reads and writes.

    The larger of two rates: a product of a matrix and a vector, which reads the matrix, and a sum
    with a number, which reads and writes it.
    """
    if mx.default_device().type != mx.DeviceType.gpu:
        return {"gpu": None}
    matrix = mx.random.normal(MATRIX, dtype=mx.bfloat16)
    vectors = [mx.random.normal((MATRIX[1],), dtype=mx.bfloat16) for _ in range(REPEATS)]
    mx.eval(matrix, vectors)
    reading = _seconds(lambda: [matrix @ vector for vector in vectors])
    both = _seconds(lambda: [matrix + number for number in range(2)])
    rates = [REPEATS * matrix.nbytes / reading, 4 * matrix.nbytes / both]
    return {
        "gpu": mx.device_info().get("device_name", "a GPU"),
        "bytes_per_second": max(rates),
        "rates": rates,
    }


def _seconds(make: Any) -> float:
    """The shortest of five evaluations."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        mx.eval(make())
        mx.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def write(directory: Path, bits: int | None, **sizes: int) -> dict[str, Any]:
    """Write a checkpoint of SHAPE with random weights; `sizes` replace some of it."""
    config = SHAPE | sizes
    size = write_with(config, directory, _random, words(), bits, group=64)
    key_and_value = 2 * config["num_key_value_heads"] * config["head_dim"] * mx.bfloat16.size
    # The embedding is also the last layer's matrix, so that a token reads all weights.
    return {"weights": size, "kv": config["num_hidden_layers"] * key_and_value}


def _random(weight: mx.array) -> mx.array:
    return 0.02 * mx.random.normal(weight.shape, dtype=mx.bfloat16)


def generate(directory: Path) -> dict[str, Any]:
    """Tokens per second of mlx_lm's own generation, one prompt of 32 tokens, without a server."""
    model, _ = load(str(directory))
    prompt = mx.arange(32) % MIDDLE_VOCABULARY
    times = []
    for _, _ in generate_step(prompt, model, max_tokens=WARM_UP + TOKENS):
        times.append(time.perf_counter())
    return {"tokens_per_second": TOKENS / (times[-1] - times[WARM_UP - 1])}


def main(what: str, *words: str) -> dict[str, Any]:
    """Run one of the functions above."""
    if what == "write":
        bits = int(words[1]) if words[1] != "none" else None
        return write(Path(words[0]), bits, **json.loads(words[2]))
    return bandwidth() if what == "bandwidth" else generate(Path(words[0]))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

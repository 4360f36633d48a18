"""Effects of each setting on time, memory and answers: `python -m benchmarks.settings`.

Runs MLX in this process, in sessions as in a worker. The values of a setting take turns in one run;
the first turn is discarded. Prints the tables of docs/settings.md.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import mlx.core as mx
from mlx_lm.utils import _get_classes

from reconciler.core.footprint import KV_BITS
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.demo import DEMO_MODEL
from reconciler.demo.questions import examination
from reconciler.worker import overrides
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.session import Session

CONFIG = EffectiveSettings(
    8192, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)
TURNS = 5
PROMPT = 2048
GENERATED = 32
EXAMINED = 200

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "vocab_size": 320,
    "tie_word_embeddings": True,
}


def prefill(session: Session, length: int) -> tuple[float, float]:
    """Seconds and peak bytes of a prefill of `length` tokens and the generation of one."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    begin = time.perf_counter()
    # Each prompt begins with a different token, so that no kept KV cache matches.
    session.generate([prefill.turn % 300] + [7] * (length - 1), 1)  # type: ignore[attr-defined]
    prefill.turn += 1  # type: ignore[attr-defined]
    return time.perf_counter() - begin, mx.get_peak_memory() - before


prefill.turn = 0  # type: ignore[attr-defined]


def compare(sessions: dict[Any, Session], base: Any) -> dict[Any, tuple[float, float]]:
    """Median ratios of a long prompt's time and peak memory to those of `base`."""
    turns = [
        {value: prefill(session, PROMPT) for value, session in sessions.items()}
        for _ in range(TURNS + 1)
    ]
    return {
        value: (
            median(turn[value][0] / turn[base][0] for turn in turns[1:]),
            median(turn[value][1] / turn[base][1] for turn in turns[1:]),
        )
        for value in sessions
    }


def llama(layers: int = 2, dtype: Any = mx.float32) -> Any:
    """A small llama with random weights."""
    model_class, args_class = _get_classes(LLAMA)
    model = model_class(args_class.from_dict(LLAMA | {"num_hidden_layers": layers}))
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    return model


def with_answer(session: Session, turn: int) -> tuple[float, float, float]:
    """Peak bytes of a long prompt, its CPU seconds, and those of generating `GENERATED` tokens."""
    prompt = [turn % 300] + [7] * (PROMPT // 2 - 1)
    mx.clear_cache()
    mx.reset_peak_memory()
    before, begin = mx.get_active_memory(), time.process_time()
    session.generate(prompt, 1)
    peak, read = mx.get_peak_memory() - before, time.process_time()
    session.generate(prompt, GENERATED)  # its KV cache is kept
    return peak, read - begin, time.process_time() - read


def quantized(dtype: Any) -> dict[int | None, tuple[float, ...]]:
    """Ratios of KV cache, peak memory, prefill and generation to those without quantisation."""
    model = llama(layers=6, dtype=dtype)
    sessions = {
        bits: Session(model, replace(CONFIG, kv_cache_bits=bits)) for bits in (None, *KV_BITS)
    }
    turns = [
        {bits: with_answer(session, turn) for bits, session in sessions.items()}
        for turn in range(TURNS + 1)
    ]
    kept = {bits: session.kept_bytes for bits, session in sessions.items()}  # of the same prompts
    return {
        bits: (
            kept[bits] / kept[None],
            *(median(t[bits][n] / t[None][n] for t in turns[1:]) for n in range(3)),
        )
        for bits in sessions
    }


def right(model: Model, name: str) -> int:
    """Number of held-out questions that a session of the demo's model answers correctly."""
    session, tokenizer = model.session(name), model.tokenizer
    texts: list[list[int]] = []
    questions = examination(EXAMINED)

    def ask(question: str) -> None:
        tokens: list[int] = []
        texts.append(tokens)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        session.start(Request(list(prompt), 40, lambda token, *_: tokens.append(token), print))

    for question, _ in questions:
        while len(session._waiting) > 64:  # noqa: SLF001
            session.step()
        ask(question)
    while session.busy:
        session.step()
    answers = [tokenizer.decode(text, skip_special_tokens=True) for text in texts]
    return sum(a == b for a, (_, b) in zip(answers, questions, strict=True))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Measure and print."""
    overrides.install()
    model = llama()
    sizes = {
        size: Session(model, replace(CONFIG, eval_batch_size=size)) for size in (16, 128, 512, 2048)
    }
    passes = [
        (str(size), str(-(-(PROMPT - 1) // size)), f"{seconds:.2f}", f"{peak:.2f}")
        for size, (seconds, peak) in compare(sizes, 512).items()
    ]
    print_table(("eval_batch_size", f"passes for {PROMPT} tokens", "time", "peak memory"), passes)

    ways = {
        flash: Session(model, replace(CONFIG, eval_batch_size=2048, flash_attention=flash))
        for flash in (True, False)
    }
    attention = [
        (str(flash).lower(), f"{seconds:.2f}", f"{peak:.2f}")
        for flash, (seconds, peak) in compare(ways, base=False).items()
    ]
    print_table(("flash_attention", "time", "peak memory"), attention)

    taught = Model()
    taught.load(LoadWeights(str(DEMO_MODEL)), lambda _: None)
    experts = {}
    for number in (1, 2, 4, 8):
        config = replace(CONFIG, context_length=4096, num_experts=number)
        taught.open(str(number), OpenSession(config, ("num_experts_per_tok",)))
        experts[number] = taught.session(str(number))
    widths = [
        (str(number), f"{seconds:.2f}", f"{right(taught, str(number))} of {EXAMINED}")
        for number, (seconds, _) in compare(experts, 2).items()
    ]
    print_table(("num_experts", "time", "right answers"), widths)

    answers = {}
    for bits in (None, *KV_BITS):
        config = replace(CONFIG, context_length=4096, num_experts=2, kv_cache_bits=bits)
        taught.open(f"{bits} bits", OpenSession(config))
        answers[bits] = f"{right(taught, f'{bits} bits')} of {EXAMINED}"
    for dtype in (mx.float32, mx.bfloat16):
        rows = [
            (str(bits), *(f"{ratio:.2f}" for ratio in ratios), answers[bits])
            for bits, ratios in quantized(dtype).items()
        ]
        head = ("kv_cache_bits", "KV cache", "peak memory", "prefill", "generation")
        print(dtype)
        print_table((*head, "right answers in float32"), rows)


if __name__ == "__main__":
    main()

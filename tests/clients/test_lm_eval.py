"""lm-eval-harness: log-probabilities of prompts, compared with mlx-lm's own forward pass."""

import json
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load

from tests.clients import harness
from tests.clients.harness import Client, Clients
from tests.conftest import QUESTIONS
from tests.support import Daemon

pytestmark = harness.long

LM_EVAL = Client(
    "lm-eval-harness",
    "PyPI",
    ("lm_eval[api]==0.4.13", "transformers==5.23.0"),
    "`local-completions`: log-likelihoods and generated texts; token ids, texts and batches",
)


def greedy(model: Any, tokens: list[int], number: int) -> list[int]:
    """Greedy continuation by the model."""
    for _ in range(number):
        tokens = [*tokens, int(model(mx.array([tokens]))[0, -1].argmax().item())]
    return tokens


def test_lm_eval(clients: Clients, shared: Daemon) -> None:
    shared.load({"model": QUESTIONS})
    path = str(shared.home.models / QUESTIONS)
    model, tokenizer, *_ = load(path)
    begin = "The capital of Japan is"
    likely = tokenizer.decode(greedy(model, tokenizer.encode(begin), 3))
    assert likely.startswith(begin)
    pairs = [
        ("The capital of France", " is Paris."),
        ("What is asked for", " is honoured"),
        ("a", " b c d"),
        (begin, likely.removeprefix(begin)),
    ]
    found = clients.installed(LM_EVAL).program(
        "with_lm_eval.py", shared, QUESTIONS, path, json.dumps(pairs)
    )
    for form in found.values():
        assert form == found["single"]
    for (context, more), (score, is_greedy) in zip(pairs, found["single"]["scores"], strict=True):
        before, tokens = tokenizer.encode(context), tokenizer.encode(context + more)
        logits = model(mx.array([tokens]))[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        places = range(len(before), len(tokens))
        expected = sum(logprobs[place - 1, tokens[place]].item() for place in places)
        assert score == pytest.approx(expected, rel=1e-3)
        chosen = [int(logprobs[place - 1].argmax().item()) for place in places]
        assert is_greedy is (chosen == tokens[len(before) :])
    assert found["single"]["scores"][-1][1]

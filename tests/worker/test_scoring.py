"""Test the log-probabilities of prompts against those of mlx-lm's own forward pass."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker.likelihood import LEAST, Likelihood, likelihoods
from reconciler.worker.pending import Request, Score
from reconciler.worker.session import Session
from tests.conftest import CHECKPOINTS

CONFIG = EffectiveSettings(
    4096, 7, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
PROMPT = [9, 8, 7, 6, 5, 11] * 8


def asked(prompt: list[int], max_tokens: int, *, alone: bool = False) -> tuple[Request, Any, Any]:
    """A request whose prompt is scored, the scores of the prompt, and the generated tokens."""
    found: list[Likelihood] = []
    tokens: list[int] = []

    def fail(error: Exception) -> None:
        raise error

    def emit(token: int, _end: str | None, _logprobs: Any) -> None:
        assert found or len(prompt) == 1  # the prompt comes first
        tokens.append(token)

    request = Request(prompt, max_tokens, emit, fail)
    request.score = Score(3, found.extend, alone=alone)
    return request, found, tokens


def run(session: Session) -> None:
    while session.busy:
        session.step()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_prompts_log_probabilities_equal_those_of_mlx_lms_own_forward_pass(
    models: Path, name: str
) -> None:
    model, _ = load_model(models / name)
    session = Session(model, CONFIG)
    session.run_requests(session.learn_batching()[0])
    request, found, tokens = asked(PROMPT, 4)
    session.start(request)
    run(session)
    logits = model(mx.array([PROMPT]))[0].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    assert [one.token for one in found] == PROMPT[1:]
    for place, one in enumerate(found):
        row = logprobs[place]
        assert one.logprob == pytest.approx(row[one.token].item(), abs=2e-2)
        likeliest: Any = mx.sort(-row)[:3].tolist()
        assert [p for _, p in one.alternatives] == pytest.approx([-p for p in likeliest], abs=2e-2)
    # Cached tokens are not computed again, and are counted once.
    assert (request.cached_tokens, session.usage.prompt_tokens) == (0, len(PROMPT))
    fresh = Session(model, CONFIG)
    assert tokens == fresh.generate(PROMPT, 4)


def test_a_greedy_token_has_the_log_probability_of_the_likeliest(models: Path) -> None:
    """lm-eval-harness takes an answer for greedy only if both are the same number."""
    model, _ = load_model(models / "tiny/llama")
    session = Session(model, CONFIG)
    greedy = [*PROMPT, *session.generate(PROMPT, 8)]
    request, found, _ = asked(greedy, 1, alone=True)
    session.start(request)
    run(session)
    for one in found[len(PROMPT) - 1 :]:
        assert one.alternatives[0] == (one.token, one.logprob)


def test_a_prompt_alone_is_scored_beside_others_and_generates_nothing(models: Path) -> None:
    model, _ = load_model(models / "tiny/llama")
    session = Session(model, CONFIG)
    others: list[int] = []
    other = Request([5, 6], 20, lambda token, *_: others.append(token), lambda _: None)
    scored = [asked(PROMPT[:n], 1, alone=True) for n in (1, 2, 30)]
    session.start(other)
    session.start(*(request for request, _, _ in scored))
    run(session)
    assert [len(found) for _, found, _ in scored] == [0, 1, 29]
    assert all(tokens == [] for _, _, tokens in scored)
    assert others == Session(model, CONFIG).generate([5, 6], 20)


def test_a_request_cancelled_during_its_prefill_frees_its_place(models: Path) -> None:
    model, _ = load_model(models / "tiny/llama")
    session = Session(model, CONFIG)
    first, found, _ = asked(PROMPT, 4)
    second, after, _ = asked(PROMPT, 4)
    session.start(first)
    session.start(second)
    session.step()
    session.cancel(first)
    run(session)
    assert (found, len(after)) == ([], len(PROMPT) - 1)


def test_an_error_during_the_scoring_of_a_prompt_fails_only_its_request(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_model(models / "tiny/llama")
    session = Session(model, CONFIG)
    errors: list[Exception] = []
    request, _, _ = asked(PROMPT, 4)
    request.fail = errors.append
    session.start(request)

    def broken(*_: Any) -> Any:
        raise ValueError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr("reconciler.worker.scoring.likelihoods", broken)
        run(session)
    assert [str(error) for error in errors] == ["no memory"]
    assert session.generate(PROMPT, 4) == Session(model, CONFIG).generate(PROMPT, 4)


def test_an_impossible_token_has_a_number_that_json_can_represent() -> None:
    rows = mx.array([[0.0, -mx.inf], [-mx.inf, 0.0]])
    first, second = likelihoods([1, 1], rows, 2)
    assert (first.logprob, first.alternatives) == (LEAST, ((0, 0.0),))
    assert (second.logprob, second.alternatives) == (0.0, ((1, 0.0),))


def test_the_likeliest_of_many_rows_equal_those_found_by_sorting() -> None:
    rows = mx.random.normal((5, 3000), key=mx.random.key(1))
    for number in (1, 2, 20):
        for row, one in zip(rows, likelihoods([0] * 5, rows, number), strict=True):
            ids = mx.argsort(-row)[:number].tolist()
            assert [token for token, _ in one.alternatives] == ids

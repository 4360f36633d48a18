"""Test sampling parameters, on real MLX."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import apply_xtc
from mlx_lm.utils import load_model

from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides, sampling
from reconciler.worker.pending import Request
from reconciler.worker.sampling_parameters import Sampling
from reconciler.worker.session import Session

VOCABULARY = 320
PROMPT = [5, 6, 7, 8, 9]


def logprobs(seed: int = 1) -> Any:
    values = 3 * mx.random.normal((1, VOCABULARY), key=mx.random.key(seed))
    return values - mx.logsumexp(values, axis=-1, keepdims=True)


def drawn(vocabulary: int = VOCABULARY, **keys: Any) -> list[int]:
    """Draw twenty tokens."""
    sample = sampling.sampler(Sampling(**keys), vocabulary)
    return [sample(logprobs(i)).item() for i in range(20)]


@pytest.mark.parametrize("top_k", [-1, 0, VOCABULARY, VOCABULARY + 1, 2**31 - 1])
@pytest.mark.parametrize("seed", [3, None])
def test_a_top_k_of_at_least_the_vocabulary_has_no_effect(top_k: int, seed: int | None) -> None:
    mx.random.seed(0)
    expected = drawn(seed=seed)
    mx.random.seed(0)
    assert drawn(seed=seed, top_k=top_k) == expected


def test_the_lowest_temperatures_are_greedy() -> None:
    greedy = [int(logprobs(i).argmax()) for i in range(20)]
    for temperature in (0, 1e-300, 1e-10, 1e-4):
        assert drawn(temperature=temperature) == greedy
        assert drawn(temperature=temperature, seed=1) == greedy
    assert drawn(temperature=2, seed=1) != greedy


@pytest.mark.parametrize("keys", [{"top_p": 0}, {"top_p": 1}, {"min_p": 0}, {"xtc_threshold": 0.9}])
def test_neutral_values_change_nothing(keys: dict[str, Any]) -> None:
    assert drawn(seed=3, **keys) == drawn(seed=3)


def test_extreme_values_select_a_token_of_the_vocabulary() -> None:
    for keys in (
        {"top_p": 1e-300},
        {"min_p": 1},
        {"min_p": 1e-300},
        {"top_k": 1},
        {"xtc_probability": 1, "xtc_threshold": 0},
        {"xtc_probability": 1, "xtc_threshold": 0.5},
    ):
        for seed in (3, None):
            assert all(0 <= token < VOCABULARY for token in drawn(seed=seed, **keys)), keys


def test_xtc_with_a_seed_excludes_the_same_tokens_as_mlx_lm() -> None:
    values, special = logprobs(), [int(logprobs().argmax())]
    for threshold in (0.01, 0.05, 0.2):
        for tokens in ([], special):
            theirs = apply_xtc(values, 1.0, threshold, tokens)
            ours = sampling._without_top_choices(values, threshold, tokens)
            assert mx.array_equal(theirs, ours)
    keys: dict[str, Any] = {"xtc_probability": 0.5, "xtc_threshold": 0.01, "seed": 5}
    assert drawn(**keys) == drawn(**keys) != drawn(seed=5)


def changed(context: list[int], **keys: Any) -> Any:
    """Apply a request's processors to logits that are all 1."""
    values = mx.ones((1, VOCABULARY))
    for process in sampling.processors(Sampling(**keys), VOCABULARY):
        values = process(mx.array(context), values)
    return values[0]


@pytest.mark.parametrize(
    ("penalty", "size", "value"),
    [
        ("repetition_penalty", "repetition_context_size", 2.0),
        ("presence_penalty", "presence_context_size", 0.5),
        ("frequency_penalty", "frequency_context_size", 0.5),
    ],
)
def test_a_penalty_covers_as_many_tokens_as_requested(
    penalty: str, size: str, value: float
) -> None:
    context = list(range(100, 110))
    for asked, seen in ((3, 3), (-1, 10), (None, 10), (0, 0), (50, 10)):
        values = changed(context, **{penalty: value, size: asked})
        assert [t for t in range(VOCABULARY) if values[t].item() == 0.5] == context[10 - seen :]


def test_neutral_penalties_add_no_processor() -> None:
    off = Sampling(repetition_penalty=1, presence_penalty=0, frequency_penalty=0, logit_bias={})
    assert sampling.processors(off, VOCABULARY) == []


@pytest.mark.parametrize("token", ["320", "-1", "x", "٣", "1" * 5000])
def test_a_bias_for_a_token_outside_of_the_vocabulary_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="logit_bias") as raised:
        sampling.processors(Sampling(logit_bias={token: 1}), VOCABULARY)
    assert len(str(raised.value)) < 200


class TestEnds:
    """Test the tokens that end an answer, in a real session."""

    @pytest.fixture
    def model(self, models: Path) -> Any:
        return load_model(models / "tiny/llama")[0]

    def answer(self, model: Any, own: tuple[int, ...], **more: Any) -> tuple[list[int], str]:
        config = EffectiveSettings(
            512,
            64,
            flash_attention=True,
            num_experts=0,
            offload_kv_cache_to_gpu=overrides.on_gpu(),
        )
        session = Session(model, config, own)
        tokens: list[int] = []
        reasons: list[str] = []

        def emit(token: int, end: str | None, _: Any) -> None:
            tokens.append(token)
            reasons.extend([end] if end else [])

        def fail(error: Exception) -> None:
            raise error

        session.start(Request(list(PROMPT), 12, emit, fail, **more))
        while session.busy:
            session.step()
        return tokens, reasons[0]

    def test_a_request_may_have_its_own_end_tokens(self, model: Any) -> None:
        whole, _ = self.answer(model, ())
        end, other = whole[2], whole[5]
        assert whole.index(end) == 2
        assert self.answer(model, (end,)) == (whole[:3], "stop")
        assert self.answer(model, (end,), ends=()) == (whole, "length")
        assert self.answer(model, (end,), ends=(other,))[0] == whole[: whole.index(other) + 1]

    def test_no_end_token_comes_before_the_minimum_number_of_tokens(self, model: Any) -> None:
        whole, _ = self.answer(model, ())
        end = whole[2]
        for least in (0, 1, 5):
            forbid = sampling.without_ends((end,), len(PROMPT), least)
            tokens, _ = self.answer(model, (end,), processors=(forbid,))
            assert len(tokens) >= max(least, 1)
            assert end not in tokens[:least]
            assert tokens[: min(2, len(tokens))] == whole[: min(2, len(tokens))]


def test_requests_with_the_same_parameters_share_a_sampler_unless_they_draw_apart() -> None:
    def made(**keys: Any) -> Any:
        return sampling.sampler(Sampling(**keys), VOCABULARY)

    for shared in ({}, {"temperature": 0}, {"temperature": 0.7, "top_p": 0.9, "top_k": 40}):
        assert made(**shared) is made(**shared)
    assert made(temperature=0.7) is not made(temperature=0.8)
    assert made(top_k=0) is made(top_k=VOCABULARY)
    for apart in ({"seed": 1}, {"xtc_probability": 0.5}):
        assert made(**apart) is not made(**apart)


def test_rows_that_share_a_sampler_are_drawn_independently() -> None:
    sample = sampling.sampler(Sampling(temperature=2), VOCABULARY)
    rows = sample(mx.repeat(logprobs(), 32, axis=0)).tolist()
    assert len(set(rows)) > 8

"""Test both kinds of generators: tokens, segments, ends and clean-up."""

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.utils import load_model

from reconciler.worker import generators, overrides
from reconciler.worker.generators import Batching, Generated, Generator, Job, Read

PROMPT = [9, 8, 7, 6, 5] * 6
KINDS = list(Batching)


@pytest.fixture
def llama(models: Path) -> Any:
    return load_model(models / "tiny/llama")[0]


def make(model: Any, batching: Batching, ends: tuple[int, ...] = ()) -> Generator:
    return generators.make(batching, model, ends=ends, prefill_step=8, batch_size=4)


def run(generator: Generator, *jobs: Job) -> tuple[list[list[Generated]], list[Read]]:
    """The generated tokens of the jobs, and the prefilled ones."""
    answers: dict[int, list[Generated]] = {generator.insert(job): [] for job in jobs}
    pieces: list[Read] = []
    while any(not one or one[-1].finish_reason is None for one in answers.values()):
        read, generated = generator.next()
        pieces += read
        for one in generated:
            answers[one.uid].append(one)
    return list(answers.values()), pieces


def tokens(answer: list[Generated]) -> list[int]:
    return [one.token for one in answer]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_those_of_mlx_lm(llama: Any, kind: Batching) -> None:
    expected = [int(t) for t, _ in islice(generate_step(mx.array(PROMPT), llama), 6)]
    (answer,), _ = run(make(llama, kind), Job([PROMPT], 6))
    assert tokens(answer) == expected
    assert [one.finish_reason for one in answer] == [None] * 5 + ["length"]
    held = expected if kind is Batching.APART else expected[:-1]
    assert list(answer[-1].tokens) == [*PROMPT, *held]
    assert all(one.offset == len(PROMPT) + len(held) for one in answer[-1].cache or ())


@pytest.mark.parametrize("kind", [Batching.TOGETHER, Batching.READ_APART])
def test_no_forward_pass_begins_after_the_last_token(
    llama: Any, kind: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, ...]] = []
    forward = type(llama).__call__

    def counted(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        computed.append(inputs.shape)
        return forward(model, inputs, *args, **more)

    monkeypatch.setattr(type(llama), "__call__", counted)
    run(make(llama, kind), Job([[1, 2]], 3))
    assert computed == [(1, 1)] * 4, "one of the prompt and three that chose a token"
    computed.clear()
    run(make(llama, kind), Job([[1, 2]], 1), Job([[1, 2]], 3))
    assert computed[-1] == (1, 1), "the longer one goes on alone"


class Watched:
    """A model that records the padding and the mask of a batch whenever it computes one token."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.seen: list[tuple[list[int], bool]] = []

    def __call__(self, inputs: Any, cache: Any) -> Any:
        if inputs.shape[1] == 1:
            self.seen.append((cache[0].left_padding.tolist(), cache[0].make_mask(1) is not None))
        return self._model(inputs, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize("kind", [Batching.TOGETHER, Batching.READ_APART])
def test_the_only_request_of_a_batch_has_no_padding_and_no_mask(llama: Any, kind: Batching) -> None:
    overrides.install()
    prompts = [PROMPT, PROMPT[:3], [7] * 17]
    alone = [
        run(make(llama, kind), Job([prompt], n))[0][0]
        for prompt, n in zip(prompts, (4, 9, 6), strict=True)
    ]
    watched = Watched(llama)
    settings = overrides.Overrides(flash_attention=True, kv_on_gpu=overrides.on_gpu())
    generator = make(overrides.ModelWithOverrides(watched, settings), kind)
    jobs = [Job([prompt], n) for prompt, n in zip(prompts, (4, 9, 6), strict=True)]
    together, _ = run(generator, *jobs)
    assert [tokens(one) for one in together] == [tokens(one) for one in alone]
    single = [one for one in watched.seen if len(one[0]) == 1]
    assert single, "the shortest prompt has the longest answer, and goes on alone"
    assert all(one == ([0], False) for one in single)
    assert any(max(padding) > 0 and masked for padding, masked in watched.seen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jobs_own_end_tokens_replace_those_of_the_generator(llama: Any, kind: Batching) -> None:
    (free,), _ = run(make(llama, kind), Job([PROMPT], 6))
    third = tokens(free)[2]
    (ended,), _ = run(make(llama, kind, ends=(third,)), Job([PROMPT], 6))
    assert ended[-1].finish_reason == "stop"
    assert tokens(ended)[-1] == third
    (own,), _ = run(make(llama, kind, ends=(third,)), Job([PROMPT], 6, ends=()))
    assert tokens(own) == tokens(free)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_prefilled_to_the_end_of_each_segment(llama: Any, kind: Batching) -> None:
    segments = [PROMPT[:5], PROMPT[5:20], PROMPT[20:]]
    (answer,), pieces = run(make(llama, kind), Job(segments, 4))
    (whole,), _ = run(make(llama, kind), Job([PROMPT], 4))
    assert [piece.done for piece in pieces if piece.segment_ended][:2] == [5, 20]
    assert max(b.done - a.done for a, b in pairwise(pieces)) <= 8
    assert tokens(answer) == tokens(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_taken_during_a_job_continues_as_the_job_does(llama: Any, kind: Batching) -> None:
    generator = make(llama, kind)
    uid = generator.insert(Job([PROMPT[:12], PROMPT[12:]], 6))
    assert generator.extract(uid) is None
    while not any(piece.segment_ended for piece in generator.next()[0]):
        pass
    held = generator.extract(uid)
    assert held is not None
    generator.remove(uid)
    cache, known = held
    assert known == PROMPT[:12]
    (rest,), _ = run(make(llama, kind), Job([PROMPT[12:]], 6, known, cache))
    (whole,), _ = run(make(llama, kind), Job([PROMPT], 6))
    assert tokens(rest) == tokens(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_penalties_cover_the_whole_prompt(llama: Any, kind: Batching) -> None:
    processors = make_logits_processors(repetition_penalty=1.8, repetition_context_size=100)
    jobs = Job([PROMPT], 6, processors=processors)
    (answer,), _ = run(make(llama, kind), jobs)
    (expected,), _ = run(make(llama, Batching.TOGETHER), jobs)
    assert tokens(answer) == tokens(expected)


def test_requests_that_run_apart_restore_the_threads_stream(llama: Any) -> None:
    before = mx.default_stream(mx.default_device())
    one, other = make(llama, Batching.APART), make(llama, Batching.APART)
    for generator in (one, other):
        generator.insert(Job([[5, 6]], 9))
        generator.insert(Job([[7, 8]], 2))
    for generator in (one, other, one, other, other):
        generator.next()
        assert mx.default_stream(mx.default_device()) == before
    one.close()
    other.remove(0)
    assert mx.default_stream(mx.default_device()) == before

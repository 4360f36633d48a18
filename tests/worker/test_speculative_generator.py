"""Test that drafts change the number of passes of a generator, and nothing else."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.utils import load_model

from reconciler.worker import company, generators, overrides
from reconciler.worker.generators import Batching, Generated, Generator, Job
from reconciler.worker.prompt_cache import always_rewindable
from reconciler.worker.sampling import Seeded
from reconciler.worker.speculation import verify
from reconciler.worker.speculation.draft import DraftModel, DraftModelError
from reconciler.worker.speculation.generator import Speculation, SpeculativeGenerator
from reconciler.worker.speculation.pace import ALLOWED_LOSS
from tests import architectures, tiny
from tests.tiny import VOCABULARY

PROMPT = [3 * n * n % 61 + 5 for n in range(24)] * 2
TOKENS = 60
FEW = ("deepseek_v3",)
"""A latent cache with experts; the other tests here use full attention."""


@pytest.fixture(scope="module")
def llama(models: Path) -> Any:
    return load_model(models / "tiny/llama")[0]


def plain(model: Any, batching: Batching = Batching.TOGETHER, ends: tuple[int, ...] = ()) -> Any:
    return generators.make(batching, model, ends=ends, prefill_step=32, batch_size=4)


def drafting(model: Any, **more: Any) -> tuple[Generator, Speculation]:
    """A generator for which each step takes the same time: so drafts always pay."""
    speculation = Speculation(clock=clock())
    return SpeculativeGenerator(plain(model, **more), speculation), speculation


def clock() -> Callable[[], float]:
    ticks = count()
    return lambda: float(next(ticks))


def drafted_by(model: Any, other: Any, most: int = 1000) -> tuple[Generator, Speculation]:
    """A generator for which another model drafts, which reads five tokens at a time."""
    draft = DraftModel(other, most, 5, VOCABULARY)
    speculation = Speculation(lookup=False, draft=draft, clock=clock())
    return SpeculativeGenerator(plain(model), speculation), speculation


def job(prompt: list[int] = PROMPT, tokens: int = TOKENS, **more: Any) -> Job:
    return Job([prompt], tokens, **{"room": lambda: 1000, **more})


def run(generator: Generator, *jobs: Job) -> list[list[Generated]]:
    return go_on(generator, {generator.insert(job): [] for job in jobs})


def go_on(generator: Generator, answers: dict[int, list[Generated]]) -> list[list[Generated]]:
    while any(not one or one[-1].finish_reason is None for one in answers.values()):
        for one in generator.next()[1]:
            answers[one.uid].append(one)
    return list(answers.values())


def tokens(answer: list[Generated]) -> list[int]:
    return [one.token for one in answer]


def expected(model: Any, prompt: list[int] = PROMPT, number: int = TOKENS, **more: Any) -> Any:
    return run(plain(model), job(prompt, number, **more))[0]


def check_architecture(name: str, directory: Path) -> None:
    """Compare answers with and without drafts; nothing if they are not used for its caches."""
    tiny.write(architectures.config(name), directory)
    model: Any = load_model(directory)[0]
    if not always_rewindable(make_prompt_cache(model)):
        return
    overrides.install()
    model = overrides.ModelWithOverrides(model, overrides.Overrides(True, False))
    batching, _ = company.learn(model)
    if batching is Batching.APART:
        return
    for seed in (3, 5, 7):
        prompt = [seed * n * n % 293 + 5 for n in range(20)] * 2
        wanted = run(plain(model, batching), job(prompt))[0]
        generator, speculation = drafting(model, batching=batching)
        assert tokens(run(generator, job(prompt))[0]) == tokens(wanted)
        assert speculation.count.drafted


@pytest.mark.parametrize("name", FEW)
def test_greedy_answers_are_the_same_for_a_few_architectures(name: str, tmp_path: Path) -> None:
    check_architecture(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(  # bitnet's kernel exists for Metal only
    "name", [name for name in architectures.NAMES if name not in (*FEW, "bitnet")]
)
def test_greedy_answers_are_the_same_for_every_architecture(name: str, tmp_path: Path) -> None:
    check_architecture(name, tmp_path)


def test_drafts_save_passes_and_keep_log_probabilities(llama: Any) -> None:
    generator, speculation = drafting(llama)
    (answer,) = run(generator, job())
    wanted = expected(llama)
    assert tokens(answer) == tokens(wanted)
    assert speculation.count.accepted > TOKENS / 4
    for one, other in zip(answer, wanted, strict=True):
        assert mx.allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_any_length_ends_with_a_cache_of_exactly_its_tokens(llama: Any) -> None:
    wanted = tokens(expected(llama))
    generator, speculation = drafting(llama)
    for number in range(1, 30, 2):
        (answer,) = run(generator, job(tokens=number))
        assert tokens(answer) == wanted[:number]
        last = answer[-1]
        assert last.finish_reason == "length"
        assert list(last.tokens) in (PROMPT + wanted[:number], PROMPT + wanted[: number - 1])
        assert {one.offset for one in last.cache or ()} == {len(last.tokens)}
    assert speculation.count.accepted


def test_a_stop_token_ends_an_answer_among_accepted_drafts(llama: Any) -> None:
    wanted = tokens(expected(llama))
    for end in sorted(set(wanted))[::3]:
        generator, _ = drafting(llama, ends=(end,))
        (answer,) = run(generator, job())
        assert tokens(answer) == wanted[: wanted.index(end) + 1]
        last = answer[-1]
        assert last.finish_reason == "stop"
        assert list(last.tokens) == PROMPT + tokens(answer)
        assert {one.offset for one in last.cache or ()} == {len(last.tokens)}


def test_a_finished_answers_cache_continues_it(llama: Any) -> None:
    wanted = tokens(expected(llama))
    generator, _ = drafting(llama)
    (begun,) = run(generator, job(tokens=20))
    known = list(begun[-1].tokens)
    rest = [*PROMPT, *wanted[:20]][len(known) :] or wanted[19:20]
    if len(known) == len(PROMPT) + 20:
        for one in begun[-1].cache or ():
            one.trim(1)
        known = known[:-1]
    more = Job([rest], TOKENS - 20, known, begun[-1].cache, room=lambda: 1000)
    (answer,) = run(generator, more)
    assert tokens(answer) == wanted[20:]


@pytest.mark.parametrize("at", [1, 5, 12, 31])
def test_another_request_joins_in_the_middle(llama: Any, at: int) -> None:
    other = [11, 12, 13, 14] * 6
    generator, speculation = drafting(llama)
    first = generator.insert(job())
    answers: dict[int, list[Generated]] = {first: []}
    while len(answers[first]) < at:
        answers[first] += generator.next()[1]
    before = speculation.count
    second = generator.insert(job(other, 9))
    answers[second] = []
    while not answers[second] or answers[second][-1].finish_reason is None:
        for one in generator.next()[1]:
            answers[one.uid].append(one)
        assert speculation.count == before, "nothing is drafted while two run"
    go_on(generator, answers)
    assert tokens(answers[first]) == tokens(expected(llama))
    assert tokens(answers[second]) == tokens(expected(llama, other, 9))
    assert speculation.count.drafted > before.drafted, "alone again"


def test_a_request_is_removed_and_continued_at_any_token(llama: Any) -> None:
    wanted = tokens(expected(llama))
    for at in range(1, 40, 3):
        generator, _ = drafting(llama)
        uid = generator.insert(job())
        begun: list[Generated] = []
        while len(begun) < at:
            begun += generator.next()[1]
        held = generator.extract(uid)
        assert held is not None
        generator.remove(uid)
        cache, known = held
        assert known == [*PROMPT, *wanted][: len(known)], "it may hold more than was returned"
        assert {one.offset for one in cache} == {len(known)}
        (again,) = run(generator, job(tokens=5))
        assert tokens(again) == wanted[:5], "nothing of the removed request is left"


def test_drafts_stay_within_the_reservation(llama: Any) -> None:
    """The room is what the session reserved beyond the tokens that it was given."""
    wanted = tokens(expected(llama))
    room, widths = 12, []
    original = type(llama).__call__

    def counted(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        widths.append(inputs.shape[1])
        return original(model, inputs, *args, **more)

    returned: list[int] = []
    generator, _ = drafting(llama)
    generator.insert(job(room=lambda: room - len(returned)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(llama), "__call__", counted)
        while len(returned) < 30:
            widths.clear()
            before = len(returned)
            returned += tokens(generator.next()[1])
            if sum(widths) > 1 and before:
                assert before + sum(widths) <= room
    assert returned == wanted[:30]


@pytest.mark.parametrize(
    "more",
    [
        {"processors": make_logits_processors(repetition_penalty=1.3)},
        {"sampler": Seeded(1, lambda logprobs, key: mx.random.categorical(logprobs, key=key()))},
        {"room": None},
    ],
    ids=["penalty", "seed", "unknown room"],
)
def test_requests_whose_choices_depend_on_more_than_the_text_are_not_drafted_for(
    llama: Any, more: dict[str, Any]
) -> None:
    generator, speculation = drafting(llama)
    (answer,) = run(generator, job(**more))
    assert len(answer) == TOKENS
    assert speculation.count.drafted == 0


def second_best(logprobs: Any) -> Any:
    return mx.argsort(logprobs, axis=-1)[..., -2]


def test_a_sampler_chooses_after_each_accepted_draft_as_it_does_without(llama: Any) -> None:
    generator, speculation = drafting(llama)
    (answer,) = run(generator, job(sampler=second_best))
    assert tokens(answer) == tokens(expected(llama, sampler=second_best))
    assert speculation.count.accepted


def test_a_narrow_lead_is_decided_by_an_ordinary_step(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "LEADS", {mx.float32: 1e9})
    generator, speculation = drafting(llama)
    (answer,) = run(generator, job())
    assert tokens(answer) == tokens(expected(llama))
    assert speculation.count.drafted
    assert speculation.count.accepted == 0


def test_choices_that_are_always_unsure_lose_no_more_than_allowed(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass whose first choice is unsure yields no token, however fast it is."""
    monkeypatch.setattr(verify, "LEADS", {mx.float32: 1e9})
    passes, original = [], type(llama).__call__

    def counted(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        passes.append(inputs.shape[1])
        return original(model, inputs, *args, **more)

    monkeypatch.setattr(type(llama), "__call__", counted)
    generator, speculation = drafting(llama)
    generator.insert(job(tokens=120))
    returned = 0
    while returned < 110:
        if returned == 0:
            passes.clear()
        returned += len(generator.next()[1])
    assert speculation.count.drafted
    assert len(passes) <= 110 * (1 + ALLOWED_LOSS) + 4


def test_a_model_without_numbers_goes_on_as_without_drafts(llama: Any) -> None:
    original = type(llama).__call__

    def broken(*args: Any, **more: Any) -> Any:
        return original(*args, **more) * mx.nan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(llama), "__call__", broken)
        generator, speculation = drafting(llama)
        (answer,) = run(generator, job([7] * 30))
        assert tokens(answer) == tokens(run(plain(llama), job([7] * 30))[0])
        assert speculation.count.accepted == 0


def test_a_failed_pass_leaves_a_generator_that_can_be_closed(llama: Any) -> None:
    generator, speculation = drafting(llama)
    uid = generator.insert(job())
    while not speculation.count.drafted:
        generator.next()
    original = type(llama).__call__

    def failing(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        if inputs.shape[1] > 1:
            raise RuntimeError("no memory")
        return original(model, inputs, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(llama), "__call__", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            go_on(generator, {uid: []})
    generator.close()


@pytest.fixture
def qwen3(models: Path) -> Any:
    return load_model(models / "tiny/qwen3")[0]


PROMPTS = [PROMPT, [11, 12, 13], [9, 8, 7, 6] * 9, [*PROMPT, 5, 6, 7], PROMPT[:30]]


def test_a_draft_model_that_agrees_saves_passes(llama: Any) -> None:
    generator, speculation = drafted_by(llama, llama)
    for prompt in PROMPTS:  # the draft model's cache goes from one to the next
        (answer,) = run(generator, job(prompt))
        assert tokens(answer) == tokens(expected(llama, prompt))
    drafted, accepted = speculation.count.drafted, speculation.count.accepted
    assert accepted > 0.9 * drafted > 0.5 * TOKENS * len(PROMPTS)


@pytest.mark.long
def test_a_draft_model_that_disagrees_changes_nothing(llama: Any, qwen3: Any) -> None:
    generator, speculation = drafted_by(llama, qwen3)
    for prompt in PROMPTS[:2]:
        (answer,) = run(generator, job(prompt))
        assert tokens(answer) == tokens(expected(llama, prompt))
    assert speculation.count.accepted < 0.5 * speculation.count.drafted


def test_prompt_lookup_and_a_draft_model_take_turns(llama: Any) -> None:
    draft = DraftModel(llama, 1000, 5, VOCABULARY)
    speculation = Speculation(draft=draft, clock=clock())
    generator = SpeculativeGenerator(plain(llama), speculation)
    (answer,) = run(generator, job())
    assert tokens(answer) == tokens(expected(llama))


def test_a_draft_model_drafts_within_the_memory_of_its_cache(llama: Any) -> None:
    generator, speculation = drafted_by(llama, llama, most=64)
    assert speculation.draft is not None
    uid = generator.insert(job())
    answer: list[Generated] = []
    while not answer or answer[-1].finish_reason is None:
        answer += [one for one in generator.next()[1] if one.uid == uid]
        assert all(one.offset <= 64 for one in speculation.draft._cache)
    assert tokens(answer) == tokens(expected(llama))
    assert speculation.count.drafted


def test_tokens_that_one_of_the_models_lacks_are_not_passed_to_it(llama: Any) -> None:
    draft = DraftModel(llama, 1000, 5, known=20)
    held = PROMPT[:7]
    assert draft.match(held) == 0
    assert draft.read(held, 5)
    assert draft.match(held) == 5
    assert all(token < 20 for token in draft.draft(held, PROMPT[7], 8))
    assert draft.draft(held, VOCABULARY + 5, 4) == []
    draft.begin()
    unknown = [1, VOCABULARY + 5, 3, 4, 5]
    assert draft.match(unknown) == 0
    assert not draft.read(unknown, 5)


def test_a_draft_model_whose_cache_cannot_be_rewound_is_refused(models: Path) -> None:
    gpt_oss = load_model(models / "openai/gpt-oss-20b")[0]
    with pytest.raises(DraftModelError, match="cannot be rewound"):
        DraftModel(gpt_oss, 1000, 5, VOCABULARY)


def test_a_draft_models_cache_is_empty_after_an_error(llama: Any) -> None:
    generator, speculation = drafted_by(llama, llama)
    run(generator, job())
    assert speculation.draft is not None
    assert speculation.draft.nbytes
    SpeculativeGenerator(plain(llama), speculation)
    assert speculation.draft.nbytes == 0

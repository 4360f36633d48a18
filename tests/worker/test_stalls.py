"""Test the bound on the time that streams wait while prompts are prefilled."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.utils import load_model

from reconciler.core.footprint import PREFILL_BATCH
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.worker import overrides
from reconciler.worker import session as module
from reconciler.worker.generators import Batching
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.model import Model
from reconciler.worker.pending import Request, Score
from reconciler.worker.prefill_cost import LEAST
from reconciler.worker.session import Session
from reconciler.worker.speculation.draft import DraftModel
from reconciler.worker.speculation.generator import Speculation
from reconciler.worker.speculation.pace import WIDTHS
from reconciler.worker.stalls import USUAL, StallBudget
from reconciler.worker.step_sizes import WITHOUT
from tests.tiny import VOCABULARY

CONFIG = EffectiveSettings(
    4096, 256, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)
BUDGET = 0.25
PER_TOKEN = 0.002
PER_POSITION = 1e-6
"""Seconds that a forward pass takes on the clock of these tests, per token and for attention."""


@dataclass
class Sleeper:
    """A session, as the stall budget sees it."""

    streams: bool = False
    prefills: bool = False
    usual_gap: float = 0.0


STREAM = Sleeper(streams=True, usual_gap=0.01)
READER = Sleeper(prefills=True)


@pytest.mark.parametrize(
    ("seconds", "sessions", "expected"),
    [
        (BUDGET, [], math.inf),
        (BUDGET, [READER], math.inf),
        (BUDGET, [STREAM], math.inf),
        (BUDGET, [STREAM, READER], BUDGET - 0.01),
        (BUDGET, [replace(STREAM, prefills=True)], BUDGET - 0.01),
        (BUDGET, [STREAM, READER, READER], (BUDGET - 0.01) / 2),
        (BUDGET, [STREAM, replace(STREAM, usual_gap=0.1), READER], (USUAL - 1) * 0.1),
        (BUDGET, [Sleeper(streams=True), READER], BUDGET),
        (math.inf, [STREAM, READER], math.inf),
    ],
)
def test_the_budget_of_a_step(seconds: float, sessions: list[Sleeper], expected: float) -> None:
    assert StallBudget(seconds).of_step(sessions) == pytest.approx(expected)


class Clocked:
    """A model whose forward passes advance a clock, and are recorded as (rows, width)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.now = 0.0
        self.per_pass = 0.0
        self.passes: list[tuple[int, int]] = []

    def __call__(self, tokens: Any, *args: Any, **more: Any) -> Any:
        rows, width = tokens.shape
        cache = more["cache"][0]
        position = getattr(cache, "_idx", cache.offset)
        per_token = PER_TOKEN + PER_POSITION * (position + width / 2)
        self.now += self.per_pass + rows * width * per_token
        self.passes.append((rows, width))
        return self.model(tokens, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.fixture
def llama(models: Path, monkeypatch: pytest.MonkeyPatch) -> Clocked:
    clocked = Clocked(load_model(models / "tiny/llama")[0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clocked.now))
    return clocked


class Allowances(Heartbeat):
    """Record the allowance of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def beating(self, allowance: float = 0.0) -> Any:
        self.seen.append(allowance)
        return super().beating(allowance)


def ignore(*_: Any) -> None:
    pass


def fail(error: Exception) -> None:
    raise error


def request(length: int, tokens: int = 1, **more: Any) -> Request:
    """A request with a prompt of `length` tokens, which finds and leaves no cached tokens."""
    return Request([7] * length, tokens, ignore, fail, kept=False, **more)


def stream(clock: Clocked, session: Session) -> list[float]:
    """Start a stream; the times of its tokens."""
    times: list[float] = []
    one = Request([9, 8], 2000, lambda *_: times.append(clock.now), fail, streams=True)
    session.start(one)
    for _ in range(6):
        session.step()
    assert session.streams
    return times


def prefilled(clock: Clocked, session: Session, budget: StallBudget, *asked: Request) -> list[Any]:
    """Step until the prompts of these requests are prefilled; the passes of several tokens."""
    clock.passes.clear()
    session.start(*asked)
    while any(not r.emitted for r in asked):
        session.step(budget.of_step([session]))
    return [one for one in clock.passes if one[1] > 1]


def test_beside_a_stream_a_prompt_is_prefilled_in_steps_that_fit_the_budget(llama: Clocked) -> None:
    heartbeat = Allowances()
    session = Session(llama, CONFIG, heartbeat=heartbeat)
    budget = StallBudget(BUDGET)
    alone = prefilled(llama, session, budget, request(701))
    assert alone == [(1, 256), (1, 256), (1, 188)]
    times = stream(llama, session)
    begin = len(times)
    heartbeat.seen.clear()
    chunks = prefilled(llama, session, budget, request(1401))
    assert sum(width for _, width in chunks) == 1400
    widths = [width for _, width in chunks]
    assert LEAST < max(widths) < 128
    assert max(after - before for before, after in pairwise(times[begin - 1 :])) <= BUDGET
    assert max(heartbeat.seen) < (128 + 3) / SLOWEST_TOKENS_PER_SECOND
    assert len(widths) < 30, "steps are not much smaller than the budget"


def test_a_new_session_begins_with_small_steps_beside_a_stream(llama: Clocked) -> None:
    session = Session(llama, CONFIG)
    times = stream(llama, session)
    begin = len(times)
    chunks = prefilled(llama, session, StallBudget(BUDGET), request(1400))
    assert [width for _, width in chunks][:3] == [LEAST, 2 * LEAST, 4 * LEAST]
    assert max(after - before for before, after in pairwise(times[begin - 1 :])) <= BUDGET


def test_the_usual_gap_is_learned_while_prompts_are_always_being_read(llama: Clocked) -> None:
    llama.per_pass = 0.1
    session, budget = Session(llama, CONFIG), StallBudget(BUDGET)
    progress: list[int] = []
    long = request(3000, read=progress.append)
    tokens: list[float] = []
    short = Request([9], 2000, lambda *_: tokens.append(llama.now), fail, streams=True)
    session.start(short, long)
    while not long.emitted:
        session.step(budget.of_step([session]))
    chunks = [b - a for a, b in pairwise([0, *progress[:-1]])]
    assert chunks[WITHOUT] == LEAST, "the generated tokens take up the known budget"
    assert chunks[-2] > 4 * LEAST
    assert all(chunks), "a step without prefill reports no progress"
    gaps = [after - before for before, after in pairwise(tokens)]
    assert max(gaps[:-2]) <= USUAL * 2 * llama.per_pass
    assert short.emitted > len(progress), "some steps only generated"
    # A stream of another session bounds the steps of this one, whose own stream has ended.
    usual = session.usual_gap
    session.cancel(short)
    again = request(1000)
    session.start(again)
    while not again.emitted:
        session.step(BUDGET)
    assert session.usual_gap == pytest.approx(usual, rel=0.01)


def test_answers_that_are_not_streamed_and_no_budget_leave_the_steps_large(llama: Clocked) -> None:
    session = Session(llama, CONFIG)
    session.start(request(1, 500))
    session.step()
    chunks = prefilled(llama, session, StallBudget(BUDGET), request(701))
    stream(llama, session)
    without = prefilled(llama, session, StallBudget(), request(701))
    assert chunks == without == [(1, 256)] * 2 + [(1, 188)]


def test_prompts_that_are_prefilled_together_share_the_budget(llama: Clocked) -> None:
    session = Session(llama, CONFIG)
    times = stream(llama, session)
    begin = len(times)
    several = [request(350) for _ in range(PREFILL_BATCH)]
    chunks = prefilled(llama, session, StallBudget(BUDGET), *several)
    assert {rows for rows, _ in chunks} == {PREFILL_BATCH}
    assert chunks[0] == (PREFILL_BATCH, LEAST // PREFILL_BATCH)
    # The step that begins their answers also computes a token of each.
    joining = PREFILL_BATCH * 2 * (PER_TOKEN + 350 * PER_POSITION)
    gaps = [after - before for before, after in pairwise(times[begin - 1 :])]
    assert max(gaps) <= BUDGET + joining
    assert sorted(gaps)[-2] <= BUDGET


def test_a_prompt_that_is_scored_shares_the_budget_with_one_that_is_prefilled(
    llama: Clocked,
) -> None:
    session = Session(llama, CONFIG)
    times = stream(llama, session)
    begin = len(times)
    found: list[Any] = []
    scored = request(701, score=Score(1, found.extend))
    prefilled(llama, session, StallBudget(BUDGET), request(701), scored)
    assert len(found) == 700
    assert max(after - before for before, after in pairwise(times[begin - 1 :])) <= BUDGET


@pytest.mark.parametrize("batching", list(Batching))
def test_tokens_do_not_depend_on_the_sizes_of_steps(llama: Clocked, batching: Batching) -> None:
    answers: list[list[int]] = [[], []]
    for budget, tokens in zip((math.inf, BUDGET), answers, strict=True):
        session = Session(llama, CONFIG, batching=batching)

        def emit(token: int, _end: str | None, _logprobs: Any, to: list[int] = tokens) -> None:
            to.append(token)

        session.start(Request([9, 8, 7, 6, 5] * 140, 12, emit, fail))
        while session.busy:
            session.step(budget)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 12


@pytest.mark.parametrize("seconds", [BUDGET, math.inf])
def test_a_stream_of_another_session_bounds_the_steps(models: Path, seconds: float) -> None:
    shared = Model(stall_budget=StallBudget(seconds))
    shared.load(LoadWeights(str(models / "tiny/llama")), lambda _: None)
    for name in ("a", "b"):
        shared.open(name, OpenSession(CONFIG))
    shared.session("a").start(Request([9, 8], 2000, ignore, fail, streams=True))
    for _ in range(3):
        shared.step()
    sizes: list[int] = []
    asked = request(1400)
    asked.read = sizes.append
    shared.session("b").start(asked)
    while not sizes:
        shared.step()
    first = LEAST if seconds == BUDGET else CONFIG.eval_batch_size
    assert sizes[0] == first


def drafting(clock: Clocked) -> Speculation:
    """Speculation whose draft model takes time on the clock, and is the model itself."""
    draft = DraftModel(clock, 4096, CONFIG.eval_batch_size, VOCABULARY)
    return Speculation(lookup=False, draft=draft, clock=lambda: clock.now)


def test_the_usual_gap_is_that_of_ordinary_steps_while_a_draft_model_reads(llama: Clocked) -> None:
    """Else other prompts would be prefilled in steps of eight times the time of a draft."""
    session = Session(llama, CONFIG, speculation=drafting(llama))
    llama.per_pass = 0.01
    one, usual = Request([9] * 1100, 200, ignore, fail, streams=True), 0.0
    session.start(one)
    while one.emitted < 40:
        session.step()
        usual = max(usual, session.usual_gap)
    drafts = [width for _, width in llama.passes if width > 1]
    assert len(drafts) > 8, "the prompt is read twice, and drafts are checked"
    assert 0 < usual <= llama.per_pass + PER_TOKEN + PER_POSITION * 1140


def test_a_step_is_allowed_the_time_of_its_drafts(llama: Clocked) -> None:
    """A step whose draft model reads a prompt is not a hang."""
    heartbeat = Allowances()
    session = Session(llama, CONFIG, heartbeat=heartbeat, speculation=drafting(llama))
    one = Request([9] * 600, 60, ignore, fail)
    session.start(one)
    widest = 0
    while session.busy:
        llama.passes.clear()
        session.step()
        computed = sum(rows * width for rows, width in llama.passes)
        widest = max(widest, computed)
        assert computed <= heartbeat.seen[-1] * SLOWEST_TOKENS_PER_SECOND + 1
    assert widest > CONFIG.eval_batch_size


def test_a_draft_model_reads_the_prompt_of_a_stream_in_steps_that_fit_the_budget(
    llama: Clocked,
) -> None:
    """It read 256 tokens a step, whatever the budget."""
    session, budget = Session(llama, CONFIG, speculation=drafting(llama)), StallBudget(BUDGET)
    times: list[float] = []
    one = Request([9] * 1400, 300, lambda *_: times.append(llama.now), fail, streams=True)
    session.start(one)
    while not one.emitted:
        session.step()
    llama.passes.clear()
    while session.busy:
        session.step(budget.of_step([session]))
    widths = [width for _, width in llama.passes if width > WIDTHS[-1] + 1]
    assert sum(widths) > 1400 - LEAST
    assert max(widths) > 2 * LEAST, "steps are not much smaller than the budget"
    assert max(after - before for before, after in pairwise(times)) <= BUDGET
    assert one.emitted == 300


def test_a_draft_model_reads_a_prompt_in_steps_that_fit_the_budget_of_another_stream(
    llama: Clocked,
) -> None:
    other, budget = Session(llama, CONFIG), StallBudget(BUDGET)
    times = stream(llama, other)
    session = Session(llama, CONFIG, speculation=drafting(llama))
    one = request(1400, 150)
    session.start(one)
    while not one.emitted:
        session.step()
    begin = len(times)
    while session.busy:
        for stepped in (other, session):
            stepped.step(budget.of_step([other, session]))
    assert max(after - before for before, after in pairwise(times[begin + 1 :])) <= BUDGET
    assert one.emitted == 150


def test_without_a_stream_a_draft_model_reads_whole_steps(llama: Clocked) -> None:
    session, budget = Session(llama, CONFIG, speculation=drafting(llama)), StallBudget(BUDGET)
    one = request(701, 40)
    session.start(one)
    while not one.emitted:
        session.step()
    llama.passes.clear()
    while session.busy:
        session.step(budget.of_step([session]))
    widths = [width for _, width in llama.passes if width > 2 * WIDTHS[-1]]
    assert widths[:2] == [256, 256]
    assert len(widths) == 3


def test_a_draft_model_that_reads_no_more_takes_no_share_of_the_budget(llama: Clocked) -> None:
    session = Session(llama, CONFIG, speculation=drafting(llama))
    one = request(100, 200)
    session.start(one)
    seen = []
    while session.busy:
        seen.append(session.prefills)
        session.step()
    assert sum(seen) < 6
    assert not any(seen[-100:])

"""Test sessions with prompts on disk: the same answers, and requests that wait for the disk."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from mlx_lm.utils import load_model

from reconciler.core.facts import Shapes
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.worker.disk.scope import LEAST, Scope
from reconciler.worker.disk.store import PromptDisk
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.session import Session
from tests import architectures, tiny
from tests.worker.prompt_disks import Gate, files, store
from tests.worker.test_prompt_cache import plain
from tests.worker.test_session import CONFIG, Asker

PROMPT = [9, 8, 7, 6, 5, 4, 3] * 60
NEXT = [11, 12, 13]
SCOPE = {"fingerprint": "a"}


class Asking(Asker):
    """Runs requests of a session whose jobs from other threads are queued."""

    def __init__(
        self,
        model: Any,
        disk: PromptDisk | None,
        config: EffectiveSettings = CONFIG,
        **more: Any,
    ) -> None:
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        prompts = partial(Scope, disk, SCOPE) if disk is not None else None
        super().__init__(Session(model, config, prompts=prompts, post=self.jobs.put, **more))

    def run(self) -> None:
        """Step until all started requests have ended."""
        while len(self.ended) < len(self.tokens):
            if not self.session.busy:
                self.jobs.get(timeout=60)()
            self.session.step()

    def step(self) -> None:
        """Step while there is something to do."""
        while self.session.busy:
            self.session.step()

    def ask(self, prompt: list[int], **more: Any) -> tuple[list[int], int | None]:
        """Tokens of an answer, and the prompt's tokens that were found."""
        request = self.start(prompt, 6, **more)
        self.run()
        return self.tokens[request], request.cached_tokens


FEW = ("llama", "gpt_oss", "mamba")
MORE = ("deepseek_v3", "deepseek_v32", "gemma3_text", "qwen3_5", "llama4_text", "gemma3n")


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(n, marks=pytest.mark.long) for n in MORE)])
def test_a_prompt_from_disk_is_answered_like_a_computed_one(tmp_path: Path, name: str) -> None:
    config = tiny._BASE | tiny.CONFIGS[name] if name in tiny.CONFIGS else architectures.config(name)
    tiny.write(config, tmp_path / "model")
    model, _ = load_model(tmp_path / "model")
    disk = PromptDisk(store(tmp_path))
    before = Asking(model, disk)
    # The end of the system turns, and the end of the last turn as the next prompt has it.
    first, _ = before.ask(PROMPT, boundaries=(300, len(PROMPT)))
    disk.flush(60)
    fresh = Asking(model, None)
    again = Asking(model, PromptDisk(store(tmp_path)))
    answer, known = again.ask(PROMPT)
    assert answer == first
    assert known is not None
    assert len(PROMPT) - 128 <= known < len(PROMPT)
    assert fresh.ask(PROMPT) == (first, 0)
    for prompt in ([*PROMPT, *NEXT], [*PROMPT[:300], *NEXT]):
        again = Asking(model, PromptDisk(store(tmp_path)))
        answer, known = again.ask(prompt)
        assert known is not None
        assert known >= LEAST
        assert answer == fresh.ask(prompt)[0]
        assert again.session.usage.disk_tokens == again.session.usage.cached_tokens == known


def test_a_quantized_prompt_from_disk_is_answered_like_a_computed_one(tmp_path: Path) -> None:
    tiny.write(tiny._BASE | {"model_type": "llama", "head_dim": 64}, tmp_path / "model")
    model, _ = load_model(tmp_path / "model")
    config = replace(CONFIG, kv_cache_bits=8)
    disk = PromptDisk(store(tmp_path))
    expected, _ = Asking(model, disk, config).ask(PROMPT)
    disk.flush(60)
    answer, known = Asking(model, PromptDisk(store(tmp_path)), config).ask(PROMPT)
    assert (answer, (known or 0) >= LEAST) == (expected, True)


@pytest.fixture
def llama(models: Path) -> Any:
    return load_model(models / "tiny/llama")[0]


@pytest.fixture
def stored(tmp_path: Path, llama: Any) -> tuple[Any, PromptDisk]:
    """A model, and a fresh view of the disk on which a prompt of it is."""
    disk = PromptDisk(store(tmp_path))
    Asking(llama, disk).ask(PROMPT)
    disk.flush(60)
    return llama, PromptDisk(store(tmp_path))


def test_memory_serves_before_the_disk(stored: tuple[Any, PromptDisk]) -> None:
    asking = Asking(*stored)
    expected = asking.ask(PROMPT)
    assert asking.session.usage.disk_tokens > 0
    assert asking.ask(PROMPT)[0] == expected[0]
    assert asking.session.usage.disk_tokens < asking.session.usage.cached_tokens / 1.5


def test_followers_use_what_the_first_request_read(stored: tuple[Any, PromptDisk]) -> None:
    model, disk = stored
    asking = Asking(model, disk)
    leader = asking.start(PROMPT, 6, leads=True)
    followers = [asking.start(PROMPT, 6, follows=leader) for _ in range(2)]
    asking.run()
    assert len({tuple(asking.tokens[one]) for one in (leader, *followers)}) == 1
    assert asking.session.usage.disk_tokens >= LEAST


def test_requests_with_the_same_beginning_all_read_it(stored: tuple[Any, PromptDisk]) -> None:
    asking = Asking(*stored)
    requests = [asking.start([*PROMPT, n], 4) for n in range(5)]
    asking.run()
    assert all((one.cached_tokens or 0) >= LEAST for one in requests)


class Hanging:
    """A session with a disk that answers when the test lets it."""

    def __init__(self, model: Any, disk: PromptDisk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asking = Asking(model, disk)
        self.entered, self.answers = threading.Event(), threading.Event()
        original = disk.directory.reader

        def reader(name: str) -> Any:
            self.entered.set()
            assert self.answers.wait(60)
            return original(name)

        monkeypatch.setattr(disk.directory, "reader", reader)


@pytest.fixture
def hanging(stored: tuple[Any, PromptDisk], monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """A session on whose disk a prompt is, which does not answer."""
    return Hanging(*stored, monkeypatch)


def test_others_are_answered_while_a_prompt_is_read(
    hanging: Hanging,
) -> None:
    asking = hanging.asking
    slow = asking.start(PROMPT, 6)
    assert hanging.entered.wait(60)
    assert not asking.session.busy  # the thread sleeps
    assert asking.session.kv_bytes == asking.session.kv_budget.taken([slow.reserved])
    quick = asking.start(NEXT, 4)
    asking.step()
    assert (len(asking.tokens[quick]), asking.tokens[slow]) == (4, [])
    hanging.answers.set()
    asking.run()
    assert len(asking.tokens[slow]) == 6


def test_a_request_can_be_cancelled_while_its_prompt_is_read(
    hanging: Hanging,
) -> None:
    asking = hanging.asking
    request = asking.start(PROMPT, 6)
    tokens = asking.tokens[request]
    assert hanging.entered.wait(60)
    asking.session.cancel(request)
    assert asking.session.kv_bytes == 0
    hanging.answers.set()
    other = asking.start(NEXT, 2)
    asking.step()
    assert (len(tokens), len(asking.tokens[other])) == (0, 2)


def test_requests_fail_when_their_session_is_closed_while_they_read(
    hanging: Hanging,
) -> None:
    asking = hanging.asking
    errors: list[Exception] = []
    asking.session.start(Request(PROMPT, 6, lambda *_: None, errors.append))
    assert hanging.entered.wait(60)
    asking.session.close()
    assert [str(error) for error in errors] == ["the instance was unloaded"]
    hanging.answers.set()
    assert asking.jobs.empty()


def test_a_request_without_kept_prompts_reads_none(stored: tuple[Any, PromptDisk]) -> None:
    asking = Asking(*stored)
    assert asking.ask(PROMPT, kept=False)[1] == 0


def test_writes_count_as_memory_until_they_are_over_and_end_when_it_is_needed(
    tmp_path: Path, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    disk = PromptDisk(store(tmp_path))
    asking = Asking(llama, disk)
    asking.ask(PROMPT)
    assert gate.entered.wait(60)
    one = asking.session.kept_bytes
    asking.ask([*PROMPT, *NEXT])  # replaces it
    assert asking.session.kept_bytes > 1.5 * one
    kept = asking.session._batch.kept
    kept.trim(round(1.2 * one))
    assert len(kept) == 1
    assert kept.nbytes <= 1.2 * one
    kept.trim(0)
    assert (len(kept), kept.nbytes) == (0, 0)
    gate.open.set()
    disk.flush(60)
    assert not files(tmp_path)


def test_a_closed_session_holds_no_memory_for_writes(
    tmp_path: Path, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    disk = PromptDisk(store(tmp_path))
    asking = Asking(llama, disk)
    asking.ask(PROMPT)
    asking.session.close()
    assert asking.session.kept_bytes == 0
    gate.open.set()
    disk.flush(60)


def cached_tokens(model: Model, name: str, jobs: SimpleQueue[Any]) -> int:
    """Ask a session; returns the prompt's tokens that were found."""
    asker = Asker(model.session(name))
    request = asker.start(PROMPT, 3, boundaries=(300,))
    while not asker.ended:
        if not asker.session.busy:
            jobs.get(timeout=60)()
        model.step()
    model.flush(60)
    return request.cached_tokens or 0


def test_only_settings_that_change_numbers_separate_prompts(tmp_path: Path, models: Path) -> None:
    model, jobs = Model(), SimpleQueue[Any]()
    model.post = jobs.put
    model.load(LoadWeights(str(models / "openai/gpt-oss-20b")), lambda _: None)
    sessions: dict[str, tuple[dict[str, Any], str]] = {
        "first": ({}, "a"),
        "context_length": ({"context_length": 1000, "eval_batch_size": 64}, "a"),
        "num_experts": ({"num_experts": 2}, "a"),
        "flash_attention": ({"flash_attention": False}, "a"),
        "fingerprint": ({}, "b"),
    }
    found = []
    for name, (settings, fingerprint) in sessions.items():
        config = replace(CONFIG, **{"num_experts": 4, **settings})
        prompts = replace(store(tmp_path), fingerprint=fingerprint)
        command = OpenSession(
            config, ("num_experts_per_tok",), session_bytes=10**9, prompts=prompts
        )
        model.open(name, command)
        if cached_tokens(model, name, jobs):
            found.append(name)
    assert found == ["context_length"]


def test_a_prompt_is_read_only_into_reserved_memory(stored: tuple[Any, PromptDisk]) -> None:
    model, disk = stored
    budget = KVBudget(CONFIG, Shapes(100), 100 * (len(PROMPT) + 20))
    asking = Asking(model, disk, kv_budget=budget)
    asking.session._batch.kept.keep([1, 2], plain(2))
    one, other = (asking.start([*PROMPT, n], 6) for n in range(2))
    assert (one in asking.session._waiting, other in asking.session._waiting) == (False, True)
    asking.run()
    assert all(one.cached_tokens for one in (one, other))

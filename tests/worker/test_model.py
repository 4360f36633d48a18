"""Test the worker's model and sessions, on real MLX in this process."""

import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from reconciler.core.protocol import Lease, LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.models.checkpoint import read_facts
from reconciler.worker import backend, overrides
from reconciler.worker.generators import Batching
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.reservation import ContextLengthExceededError
from reconciler.worker.session import Session
from reconciler.worker.shapes import see
from reconciler.worker.thread import MlxThread
from tests import counting

PROMPT = [5, 6, 7, 8, 9]


def loaded(path: Path) -> Model:
    model = Model()
    model.load(LoadWeights(str(path)), lambda _: None)
    return model


def command(path: Path, *, context_length: int = 64, num_experts: int | None = None) -> OpenSession:
    facts = read_facts(path)
    experts = facts.experts_per_token if num_experts is None else num_experts
    has_gpu = backend.machine().has_gpu
    config = EffectiveSettings(context_length, 16, has_gpu, experts, has_gpu)
    return OpenSession(config, facts.experts_key)


def session(model: Model, name: str) -> Session:
    return model.session(name)


def test_weights_are_counted_from_the_headers(models: Path) -> None:
    path = models / "tiny/qwen3"
    reported = Model().load(LoadWeights(str(path)), lambda _: None)
    assert reported.weights_bytes >= read_facts(path).weights_bytes
    assert set(reported.phases) == {"weights", "tokenizer"}


def test_unused_weights_are_not_counted(models: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(models / "tiny/llama", tmp_path / "checkpoint"))
    plain = see(path)
    assert plain.weights == read_facts(path).weights_bytes
    arrays = counting.weights(path)
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.zeros((1000,))
    mx.save_safetensors(str(path / "model.safetensors"), arrays)
    assert read_facts(path).weights_bytes == plain.weights + 4000
    assert see(path) == plain


@pytest.mark.parametrize("requested", [1, 2, 8])
def test_the_reported_number_of_experts_is_the_routers(models: Path, requested: int) -> None:
    path = models / "tiny/qwen3_moe"
    asked = command(path, num_experts=requested)
    opened = loaded(path).open("s", asked)
    assert opened.observed == asked.config


def test_another_number_of_experts_shares_the_same_arrays(models: Path) -> None:
    path = models / "openai/gpt-oss-20b"
    model = loaded(path)
    own = model.open("own", command(path))
    few = model.open("few", command(path, num_experts=1))
    assert (own.observed.num_experts, few.observed.num_experts) == (4, 1)
    weights = read_facts(path).weights_bytes
    assert few.memory_bytes < weights / 10
    outputs = [session(model, name).generate(PROMPT, 8) for name in ("own", "few", "own")]
    assert outputs[0] == outputs[2]
    assert outputs[0] != outputs[1]


def test_sessions_do_not_affect_each_other(models: Path) -> None:
    path = models / "tiny/llama"
    alone = loaded(path)
    alone.open("a", command(path))
    expected = session(alone, "a").generate(PROMPT, 10)
    shared = loaded(path)
    for name in ("a", "b"):
        shared.open(name, command(path))
    session(shared, "b").generate([1, 2, 3], 10)
    assert session(shared, "a").generate(PROMPT, 10) == expected


def test_prompt_and_completion_never_exceed_the_context_length(models: Path) -> None:
    path = models / "tiny/llama"
    model = loaded(path)
    model.open("s", command(path, context_length=8))
    assert len(session(model, "s").generate(PROMPT, 3)) == 3
    with pytest.raises(ContextLengthExceededError, match=r"5 prompt tokens and 4 more .* 8"):
        session(model, "s").generate(PROMPT, 4)


def test_a_session_is_replaced_and_closed_by_name(models: Path) -> None:
    path = models / "tiny/llama"
    model = loaded(path)
    for length in (8, 16):
        model.open("s", command(path, context_length=length))
    assert session(model, "s").config.context_length == 16
    model.close("s")
    model.close("s")
    with pytest.raises(KeyError):
        model.session("s")


def test_a_worker_holds_one_checkpoint_for_its_lifetime(models: Path) -> None:
    model = loaded(models / "tiny/llama")
    with pytest.raises(RuntimeError, match="has already loaded"):
        model.load(LoadWeights(str(models / "tiny/qwen3")), lambda _: None)


def test_a_broken_tokenizer_fails_the_load(models: Path, tmp_path: Path) -> None:
    for file in (models / "tiny/llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(Exception, match=r".") as raised:
        Model().load(LoadWeights(str(tmp_path)), lambda _: None)
    assert not isinstance(raised.value, RuntimeError)


def test_an_architecture_that_exits_the_process_is_an_ordinary_failure() -> None:
    mlx = MlxThread()
    threading.Thread(target=mlx.run, daemon=True).start()
    with pytest.raises(ImportError, match="a package that it needs is missing"):
        mlx.submit(sys.exit).result(timeout=60)
    assert mlx.submit(lambda: 5).result(timeout=60) == 5


def test_buffers_are_freed_when_the_worker_is_idle(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models / "tiny/llama"
    model = loaded(path)
    for name in ("a", "b"):
        model.open(name, command(path))
    cleared: list[str] = []

    def clear() -> None:  # mlx-lm does so too during prefill
        if not any(s.busy for s in model._sessions.values()):
            cleared.append("idle")

    monkeypatch.setattr(mx, "clear_cache", clear)
    for name, tokens in (("a", 2), ("b", 6)):
        session(model, name).start(Request(PROMPT, tokens, lambda *_: None, raises))
    while model.step():
        pass
    assert cleared == ["idle"]
    model.close("a")
    assert cleared == ["idle", "idle"]


def test_on_a_gpu_mlx_may_use_the_memory_reserved_for_the_worker(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models / "tiny/llama"
    model = loaded(path)
    weights = model._weights
    for name, held in (("a", 5_000_000), ("b", 7_000_000)):
        model.open(name, replace(command(path), session_bytes=held))
    limits: list[int] = []
    monkeypatch.setattr(overrides, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "set_memory_limit", limits.append)
    session(model, "b").kv_budget.take(Lease(1, 1_000_000))  # of a request that has ended
    session(model, "a").kv_budget.take(Lease(2, 3_000_000))
    session(model, "a").start(Request(PROMPT, 4, lambda *_: None, raises))
    while model.step():
        pass
    assert limits == [weights + 15_000_000]


def raises(error: Exception) -> None:
    raise error


def test_the_trial_of_batching_is_not_repeated(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models / "tiny/llama"
    opened = loaded(path).open("a", command(path))

    def fail(_: Session) -> None:
        raise AssertionError("it was repeated")

    monkeypatch.setattr(Session, "learn_batching", fail)
    again = Model()
    again.load(LoadWeights(str(path), together=opened.together), lambda _: None)
    again.open("a", command(path))
    assert session(again, "a").batching is Batching.TOGETHER
    with pytest.raises(AssertionError):
        loaded(path).open("a", command(path))


def test_a_failed_trial_of_batching_is_repeated(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "learn_batching", lambda _: (Batching.APART, "too little memory"))
    path = models / "tiny/llama"
    assert loaded(path).open("a", command(path)).together == ()

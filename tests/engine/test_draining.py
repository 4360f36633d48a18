"""Draining of an instance, with a real worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Machine
from reconciler.core.protocol import Lease
from reconciler.core.records import LoadSpec, RequestedSettings
from reconciler.core.settings import resolve
from reconciler.engine import engine as module
from reconciler.engine import sockets
from reconciler.engine.engine import Engine
from reconciler.engine.process import WorkerProcess
from reconciler.models.checkpoint import read_facts

ENDLESS = json.dumps(
    {"prompt": [7], "temperature": 0, "max_tokens": 30_000, "stream": True}
).encode()


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Engine]:
    directory = sockets.prepare(tmp_path)
    engine = Engine(directory, lambda _instance, _problem: None, spare=False)
    yield engine
    await engine.close()
    sockets.remove(directory)


@pytest.fixture
async def engine(empty: Engine, models: Path) -> Engine:
    """An engine with `a` loaded."""
    checkpoint = read_facts((models / "tiny/llama").resolve())
    resolved = resolve(RequestedSettings(), checkpoint, await empty.machine())
    await empty.load("a", LoadSpec("tiny/llama"), checkpoint, resolved, lambda _: None)
    return empty


def _machine(engine: Engine) -> Machine:
    """The machine, as reported by the worker of `a`: starting another worker would be slow."""
    hello = engine._loaded["a"].holder.worker.hello
    assert hello is not None
    return hello.machine


async def _rest(chunks: AsyncIterator[bytes]) -> int:
    return sum([len(chunk) async for chunk in chunks])


async def test_a_session_with_unexpected_settings_is_closed(
    engine: Engine, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = WorkerProcess.ask

    async def asked(self: WorkerProcess, method: str, *rest: Any) -> Any:
        answer = await ask(self, method, *rest)
        if method == "PUT":
            answer = replace(answer, observed=replace(answer.observed, eval_batch_size=1))
        return answer

    monkeypatch.setattr(WorkerProcess, "ask", asked)
    checkpoint = read_facts((models / "tiny/llama").resolve())
    resolved = resolve(RequestedSettings(), checkpoint, _machine(engine))
    with pytest.raises(LoadError, match="the worker observed"):
        await engine.load("b", LoadSpec("tiny/llama"), checkpoint, resolved, lambda _: None)
    loaded = engine._loaded["a"]
    pulse = await loaded.holder.worker.pulse(10)
    assert pulse is not None
    assert set(pulse.usage) == {loaded.session} == loaded.holder.sessions


async def test_requests_that_never_end_are_cut_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.0)
    async with engine.request("a", "completions", ENDLESS, Lease(1, 10**9)) as answer:
        await anext(answer.chunks)
        await engine.unload("a")
        with pytest.raises(LoadError):
            await _rest(answer.chunks)
    assert engine.instances() == ()


async def test_a_draining_instance_rejects_new_requests(engine: Engine) -> None:
    async with engine.request("a", "completions", ENDLESS, Lease(1, 10**9)) as answer:
        await anext(answer.chunks)
        unloading = asyncio.create_task(engine.unload("a"))
        while not engine._loaded["a"].draining:  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0)
        with pytest.raises(LoadError) as raised:
            async with engine.request("a", "completions", ENDLESS, Lease(1, 10**9)):
                pass
        assert raised.value.problem.reason is Reason.NOT_LOADED
        assert not unloading.done()
    await unloading
    assert engine.instances() == ()


async def test_an_instance_that_is_not_loaded_rejects_requests(empty: Engine) -> None:
    with pytest.raises(LoadError, match="'b' is not loaded now"):
        async with empty.request("b", "completions", ENDLESS, Lease(1, 10**9)):
            pass


async def _replace(engine: Engine, models: Path) -> None:
    """Load `a` with another context length; the old instance is unloaded first."""
    checkpoint = read_facts((models / "tiny/llama").resolve())
    asked = RequestedSettings(context_length=64)
    resolved = resolve(asked, checkpoint, _machine(engine))
    spec = LoadSpec("tiny/llama", asked)
    await engine.load("a", spec, checkpoint, resolved, lambda _: None, unload_first=True)


async def _tokens(engine: Engine) -> int:
    async with engine.request("a", "completions", ENDLESS, Lease(1, 10**9)) as answer:
        return len(await anext(answer.chunks))


async def test_a_draining_instance_answers_again_if_its_replacement_is_cancelled(
    engine: Engine, models: Path
) -> None:
    async with engine.request("a", "completions", ENDLESS, Lease(1, 10**9)) as answer:
        await anext(answer.chunks)
        replacing = asyncio.create_task(_replace(engine, models))
        while not engine._loaded["a"].draining:  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0)
        replacing.cancel()
        await asyncio.gather(replacing, return_exceptions=True)
        assert await _tokens(engine)
        assert len(engine._loaded["a"].holder.sessions) == 1


@pytest.mark.parametrize(("method", "replaced"), [("pulse", False), ("end", False), ("ask", True)])
async def test_a_close_is_completed_though_it_is_cancelled(
    engine: Engine, models: Path, monkeypatch: pytest.MonkeyPatch, method: str, *, replaced: bool
) -> None:
    original = getattr(WorkerProcess, method)
    closing, goes_on = asyncio.Event(), asyncio.Event()

    async def held_up(self: WorkerProcess, *rest: Any) -> Any:
        closing.set()
        await goes_on.wait()
        return await original(self, *rest)

    monkeypatch.setattr(WorkerProcess, method, held_up)
    worker = engine._loaded["a"].holder.worker
    ending = asyncio.create_task(_replace(engine, models) if replaced else engine.unload("a"))
    await closing.wait()
    ending.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(ending, return_exceptions=True)
    assert engine.instances() == ()
    assert not worker.alive


async def test_a_session_is_closed_though_another_one_keeps_its_worker(
    engine: Engine, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked, goes_on = WorkerProcess.pulse, asyncio.Event(), asyncio.Event()

    async def held_up(self: WorkerProcess, seconds: float) -> Any:
        asked.set()
        await goes_on.wait()
        return await original(self, seconds)

    monkeypatch.setattr(WorkerProcess, "pulse", held_up)
    unloading = asyncio.create_task(engine.unload("a"))
    await asked.wait()
    checkpoint = read_facts((models / "tiny/llama").resolve())
    resolved = resolve(RequestedSettings(), checkpoint, _machine(engine))
    await engine.load("b", LoadSpec("tiny/llama"), checkpoint, resolved, lambda _: None)
    goes_on.set()
    await unloading
    loaded = engine._loaded["b"]
    pulse = await loaded.holder.worker.pulse(10)
    assert pulse is not None
    assert set(pulse.usage) == {loaded.session} == loaded.holder.sessions

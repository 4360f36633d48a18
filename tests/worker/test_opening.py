"""Test that sessions are opened beside others, without a stop of their streams."""

import asyncio
import os
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.protocol import Draft, LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.models.adapter import read_adapter
from reconciler.worker import overrides, read_ahead, server
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.read_ahead import NotReadError, ReadAhead
from reconciler.worker.speculation import modules
from reconciler.worker.speculation.draft import DraftModelError
from reconciler.worker.thread import MlxThread
from tests import adapters

CONFIG = EffectiveSettings(
    8192, 256, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=overrides.on_gpu()
)


def drafting(path: Path) -> OpenSession:
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return OpenSession(CONFIG, draft=Draft(str(path), "f", size, 0, 100))


@pytest.fixture
def model(models: Path) -> Model:
    model = Model()
    model.load(LoadWeights(str(models / "tiny/llama")), lambda _: None)
    return model


async def test_a_stream_goes_on_while_a_draft_model_is_read(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, events = Model(), list[str]()
    mlx = MlxThread(model.step)
    threading.Thread(target=mlx.run, daemon=True).start()

    async def run(job: Any) -> Any:
        return await asyncio.wrap_future(mlx.submit(job))

    await run(lambda: model.load(LoadWeights(str(models / "tiny/llama")), lambda _: None))
    await run(lambda: model.open("a", OpenSession(CONFIG)))
    asked = Request([9, 8], None, lambda *_: events.append("token"), print, streams=True)
    await run(lambda: model.session("a").start(asked))
    original = modules._next_chunk

    def next_chunk(unread: Any) -> Any:
        events.append("chunk")
        return original(unread)

    monkeypatch.setattr(modules, "CHUNK_BYTES", 1)
    monkeypatch.setattr(modules, "_next_chunk", next_chunk)
    opened = await server._open(model, mlx, ReadAhead(), "b", drafting(models / "tiny/qwen3"))
    await run(lambda: model.cancel("a", asked))
    chunks = [at for at, event in enumerate(events) if event == "chunk"]
    assert len(chunks) > 10
    # A step comes before each chunk; the first ones read the prompt.
    assert events[chunks[0] : chunks[-1]].count("token") >= len(chunks) - 3
    assert opened.memory_bytes >= model._drafts.nbytes > 0


async def test_a_session_that_is_not_opened_leaves_no_draft_model(
    model: Model, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlx: Any = Inline()
    monkeypatch.setattr(Model, "open", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        await server._open(model, mlx, ReadAhead(), "b", drafting(models / "tiny/qwen3"))
    assert model._drafts.nbytes == 0
    with pytest.raises(DraftModelError):
        await server._open(model, mlx, ReadAhead(), "b", drafting(models / "none"))


def failing(*_: Any) -> Any:
    raise RuntimeError("no memory")


class Inline:
    """An MLX thread whose jobs run at once."""

    def submit(self, job: Any, **_: Any) -> Any:
        future: Future[Any] = Future()
        try:
            future.set_result(job())
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


def test_a_replaced_session_leaves_the_weights_that_the_new_one_reads(
    model: Model, models: Path, tmp_path: Path
) -> None:
    """They were released with the old session, and held without being counted."""
    adapter = read_adapter(adapters.make(models / "tiny/llama", tmp_path / "a", seed=1))
    model.open("s", OpenSession(CONFIG))
    model.open("s", replace(drafting(models / "tiny/qwen3"), adapter=adapter))
    assert model._drafts.nbytes > 0
    assert model._modules is not None
    assert model._modules.adapter_bytes == adapter.weights_bytes
    assert model.unread(drafting(models / "tiny/qwen3")) == []


def test_the_files_of_a_session_are_those_that_are_not_loaded(
    model: Model, models: Path, tmp_path: Path
) -> None:
    adapter = read_adapter(adapters.make(models / "tiny/llama", tmp_path / "a", seed=1))
    command = replace(drafting(models / "tiny/qwen3"), adapter=adapter)
    assert model.unread(OpenSession(CONFIG)) == []
    assert model.unread(command) == [str(models / "tiny/qwen3"), adapter.path]
    model.open("s", command)
    assert model.unread(command) == []


async def test_files_are_read_whole_and_others_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    os.mkfifo(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").symlink_to(tmp_path / "none")
    (tmp_path / "d.txt").write_bytes(bytes(1000))
    read: list[tuple[str, int]] = []
    original = read_ahead._read

    def recorded(path: Path, offset: int) -> int:
        size = original(path, offset)
        read.append((path.name, size))
        return size

    monkeypatch.setattr(read_ahead, "_read", recorded)
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 400)
    monkeypatch.setattr(read_ahead, "BUFFER_BYTES", 200)
    await ReadAhead().read(str(tmp_path))
    pieces = [("a.safetensors", size) for size in (400, 400, 200, 0)]
    assert read == [*pieces, ("b.safetensors", 0), ("c.safetensors", 0)]
    await ReadAhead().read(str(tmp_path / "none"))


async def test_a_disk_that_hangs_fails_the_load_and_holds_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    answers, calls = threading.Event(), list[Path]()

    def hanging(path: Path, _offset: int) -> int:
        calls.append(path)
        assert answers.wait(60)
        return 0

    monkeypatch.setattr(read_ahead, "_read", hanging)
    monkeypatch.setattr(read_ahead, "SECONDS", 0.2)
    ahead = ReadAhead()
    for _ in range(3):
        with pytest.raises(NotReadError, match=f"{tmp_path} cannot be read: its disk has not ans"):
            await ahead.read(str(tmp_path))
    assert len(calls) <= 1
    answers.set()
    monkeypatch.setattr(read_ahead, "SECONDS", 60.0)
    await ahead.read(str(tmp_path))

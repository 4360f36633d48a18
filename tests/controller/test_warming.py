"""Files of unloaded records with `warm: true` are read ahead, as far as memory is available."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.controller import warming
from reconciler.controller.warming import INTERVAL_SECONDS, Reader
from reconciler.core.records import LoadSpec
from tests.controller.fakes import Bench, spec, spin

IDLE = replace(spec(), idle_ttl_seconds=100, warm=True)
QWEN = replace(spec("tiny/qwen3"), idle_ttl_seconds=100, warm=True)


class FakeReader:
    """Notes what is read. Each file takes two pieces."""

    def __init__(self) -> None:
        self.available = 10**12
        self.read_from: list[tuple[str, int]] = []
        self.faulty: set[str] = set()

    def room(self) -> int:
        return self.available

    def files(self, checkpoint: Path) -> dict[Path, int]:
        if checkpoint.name in self.faulty:
            raise OSError("the drive is gone")
        return {checkpoint / "model.safetensors": 100}

    def read(self, file: Path, offset: int) -> int | None:
        self.read_from.append((file.parent.name, offset))
        return 7 if offset == 0 else None


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    monkeypatch.setattr(warming, "RATE", 2.0**60)
    return FakeReader()


async def idle(bench: Bench, *specs: tuple[str, LoadSpec]) -> None:
    """Declare records, let them load, and become idle."""
    bench.source.declare(*specs)
    for _ in specs:
        await bench.engine.let_load()
    for name, _ in specs:
        await bench.ready(name)
    bench.clock.advance(100)
    for name, _ in specs:
        await bench.reason(name, "Idle")


async def a_round(bench: Bench, reader: FakeReader) -> None:
    """Run a round, and let its pauses end."""
    task = asyncio.create_task(bench.controller._warming.read_ahead(reader))
    await until_done(bench, task)
    await task


async def until_done(bench: Bench, task: asyncio.Task[None]) -> None:
    """Let pauses end until a task is done."""
    while not task.done():
        await a_moment(bench)


async def a_moment(bench: Bench) -> None:
    """Let pauses end, which are short here; other timeouts do not come nearer."""
    bench.clock.advance(1e-6)
    await asyncio.sleep(0)


async def test_the_files_of_an_idle_record_are_read_in_each_round(
    bench: Bench, reader: FakeReader
) -> None:
    await idle(bench, ("a", IDLE))
    reader.read_from.clear()
    await a_round(bench, reader)
    assert reader.read_from == [("llama", 0), ("llama", 7)]
    await a_round(bench, reader)
    assert len(reader.read_from) == 4


async def test_the_files_of_a_draft_model_are_read_too(bench: Bench, reader: FakeReader) -> None:
    await idle(bench, ("a", replace(IDLE, draft_model="tiny/qwen3")))
    reader.available = 199
    with capture_logs() as logs:
        await a_round(bench, reader)
    assert reader.read_from == []
    (line,) = [one for one in logs if "page cache" in one["event"]]
    assert "200 bytes" in line["why"]
    reader.available = 200
    await a_round(bench, reader)
    assert reader.read_from == [("llama", 0), ("llama", 7), ("qwen3", 0), ("qwen3", 7)]


async def test_a_loaded_record_and_one_that_is_not_warm_are_not_read(
    bench: Bench, reader: FakeReader
) -> None:
    bench.source.declare(("a", replace(spec(), warm=True)))
    await bench.engine.let_load()
    await bench.ready("a")
    await a_round(bench, reader)
    bench.source.declare(("a", replace(IDLE, warm=False)))
    await bench.ready("a", generation=2)
    bench.clock.advance(100)
    await bench.reason("a", "Idle")
    await a_round(bench, reader)
    assert reader.read_from == []


async def test_a_change_of_warm_reloads_nothing(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", replace(spec(), warm=True)))
    await bench.ready("a", generation=2)
    assert bench.engine.loads.empty()
    assert bench.engine.unloads == []


async def test_records_are_read_by_priority_as_far_as_memory_is_available(
    bench: Bench, reader: FakeReader
) -> None:
    await idle(bench, ("a", IDLE), ("b", replace(QWEN, priority=1)))
    reader.read_from.clear()
    reader.available = 199
    with capture_logs() as logs:
        await a_round(bench, reader)
        await a_round(bench, reader)
    assert {name for name, _ in reader.read_from} == {"qwen3"}
    (line,) = [one for one in logs if "page cache" in one["event"]]
    assert line["name"] == "a"


async def test_a_drive_that_is_gone_affects_only_its_record(
    bench: Bench, reader: FakeReader
) -> None:
    reader.faulty = {"llama"}
    await idle(bench, ("a", IDLE), ("b", QWEN))
    reader.read_from.clear()
    await a_round(bench, reader)
    assert {name for name, _ in reader.read_from} == {"qwen3"}


async def test_nothing_is_read_while_a_load_runs(bench: Bench, reader: FakeReader) -> None:
    await idle(bench, ("a", IDLE))
    reader.read_from.clear()
    bench.source.declare(("a", IDLE), ("b", spec("tiny/qwen3")))
    await spin(lambda: not bench.engine.loads.empty())
    await a_round(bench, reader)
    assert reader.read_from == []
    await bench.engine.let_load()
    await bench.ready("b")
    await a_round(bench, reader)
    assert reader.read_from == [("llama", 0), ("llama", 7)]


async def test_a_round_begins_at_each_interval(
    bench: Bench, reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def begin(_: Reader) -> None:
        begun.set()

    monkeypatch.setattr(bench.controller._warming, "read_ahead", begin)
    running = asyncio.create_task(bench.controller._warming.run(reader))
    for _ in range(2):
        begun.clear()
        await asyncio.sleep(0)
        bench.clock.advance(INTERVAL_SECONDS - 1)
        await asyncio.sleep(0)
        assert not begun.is_set()
        bench.clock.advance(1)
        await begun.wait()
    running.cancel()


async def test_a_round_that_fails_is_not_the_last_one(
    bench: Bench, reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = asyncio.Queue[None]()

    async def fail(_: Reader) -> None:
        rounds.put_nowait(None)
        raise OSError("no memory")

    monkeypatch.setattr(bench.controller._warming, "read_ahead", fail)
    running = asyncio.create_task(bench.controller._warming.run(reader))
    for _ in range(2):
        await asyncio.sleep(0)
        bench.clock.advance(INTERVAL_SECONDS)
        await rounds.get()
    running.cancel()

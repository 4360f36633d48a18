"""Removal of models: from a hanging cache, and beside loads of the same model."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.controller import removal
from reconciler.controller.removal import Removal
from reconciler.core.errors import LoadError, Reason
from reconciler.models import removal as files
from tests.controller.fakes import Bench, request, spec

MODEL = "maker/leaving"


async def test_a_hanging_cache_is_an_error_and_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    unused: Any = None
    monkeypatch.setattr(removal, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("reconciler.models.removal.folder_of", lambda *_: released.wait())
    removing = Removal(unused, unused, unused, unused, Path("/cache"))
    try:
        with pytest.raises(LoadError) as raised:
            await removing.remove("maker/model", None)
    finally:
        released.set()
    assert raised.value.problem.reason is Reason.NOT_REMOVABLE
    assert "/cache" in raised.value.problem.message


class Leaving:
    """The removal of a cached model; it stops before the folder is renamed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._reached, self._released = threading.Event(), threading.Event()
        self._looked_up = asyncio.Event()
        self.at_once = False
        """True if the next lookup ends after a whole removal."""
        self._set_aside = files.set_aside
        self._resolver: Any = bench.controller._lookups._resolver
        self._find, self._find_all = self._resolver.find, self._resolver.find_all

    def stop(self, folder: Path) -> Path:
        self._reached.set()
        assert self._released.wait(60)
        return self._set_aside(folder)

    async def find(self, *arguments: Any) -> Any:
        found = await self._find(*arguments)
        self._looked_up.set()
        if self.at_once:
            self.at_once = False
            await self._bench.controller.removal.remove(MODEL, None)
        return found

    async def find_all(self, *arguments: Any) -> Any:
        found = await self._find_all(*arguments)
        self._looked_up.set()
        return found

    async def until_looked_up(self) -> None:
        """Wait until the model has been found for a load."""
        await self._looked_up.wait()

    async def begin(self) -> "asyncio.Task[int]":
        """Start the removal; it has checked that nothing uses the model."""
        removing = asyncio.create_task(self._bench.controller.removal.remove(MODEL, None))
        assert await asyncio.to_thread(self._reached.wait, 60)
        return removing

    def go_on(self) -> None:
        self._released.set()


@pytest.fixture
def leaving(
    bench: Bench, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Leaving]:
    folder = tmp_path / "state/hub/models--maker--leaving"
    shutil.copytree(models / "tiny/llama", folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("a" * 40, "utf-8")
    leaving = Leaving(bench)
    monkeypatch.setattr(files, "set_aside", leaving.stop)
    for name in ("find", "find_all"):
        monkeypatch.setattr(leaving._resolver, name, getattr(leaving, name))
    yield leaving
    leaving.go_on()


def change(bench: Bench, way: str) -> "asyncio.Task[Any]":
    controller = bench.controller
    if way == "load":
        return asyncio.create_task(controller.load(request(MODEL)))
    return asyncio.create_task(controller.put("a", spec(MODEL), wait=True))


@pytest.mark.parametrize("way", ["load", "put"])
async def test_a_load_during_a_removal_waits_and_finds_no_model(
    bench: Bench, leaving: Leaving, way: str
) -> None:
    """It was admitted, and failed when the files were gone."""
    removing = await leaving.begin()
    loading = change(bench, way)
    await leaving.until_looked_up()
    leaving.go_on()
    await _not_found(bench, loading)
    assert await removing > 0
    assert bench.controller.answer("a") is None


async def test_prompts_are_removed_even_if_files_of_the_model_are_not(
    bench: Bench, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stayed: for the next removal, the model does not exist."""

    def fail(folder: Path) -> int:
        raise files._failed(folder, PermissionError(1, "Operation not permitted"))

    monkeypatch.setattr(files, "remove", fail)
    removing = await leaving.begin()
    leaving.go_on()
    with pytest.raises(LoadError, match="Operation not permitted"):
        await removing
    assert [folder.name for folder in bench.engine.removed_prompts] == ["models--maker--leaving"]


@pytest.mark.parametrize("way", ["load", "put"])
async def test_a_load_that_is_about_to_be_admitted_finds_no_model_either(
    bench: Bench, leaving: Leaving, way: str
) -> None:
    turns = bench.controller._mutations._turns
    await turns.acquire()  # another change is being decided
    loading = change(bench, way)
    await leaving.until_looked_up()
    removing = await leaving.begin()
    turns.release()
    leaving.go_on()
    await _not_found(bench, loading)
    assert await removing > 0


@pytest.mark.parametrize("way", ["load", "put"])
async def test_a_model_that_is_removed_while_it_is_looked_up_is_not_loaded(
    bench: Bench, leaving: Leaving, way: str
) -> None:
    leaving.go_on()
    leaving.at_once = True
    await _not_found(bench, change(bench, way))


async def _not_found(bench: Bench, loading: "asyncio.Task[Any]") -> None:
    started = asyncio.create_task(bench.engine.loads.get())
    await asyncio.wait({loading, started}, return_when=asyncio.FIRST_COMPLETED)
    assert started.cancel(), "the load was started"
    with pytest.raises(LoadError) as raised:
        await loading
    assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND


async def test_a_manifest_read_during_a_removal_reports_that_there_is_no_model(
    bench: Bench, leaving: Leaving
) -> None:
    removing = await leaving.begin()
    bench.source.declare(("a", spec(MODEL)))
    await leaving.until_looked_up()
    leaving.go_on()
    assert MODEL in await bench.reason("a", "ModelNotFound")
    assert bench.engine.loads.empty()
    assert await removing > 0

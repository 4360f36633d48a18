"""Keeps the files of unloaded records with `warm: true` in the page cache.

Once a minute, the weight files of these records are read ahead, with those of their adapter and
draft model. The records of the highest priority come first, as far as the memory that is available
holds all files of a record. Nothing is read while a load runs, which needs the disk itself. Reading
is limited to `RATE`, and runs in threads: a drive that hangs delays the other records by a minute,
once.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from reconciler.controller.clock import Clock, sleep
from reconciler.controller.lookups import Lookups
from reconciler.controller.registry import Registry
from reconciler.controller.state import Phase, RecordState
from reconciler.core.facts import Checkpoint
from reconciler.models.read_ahead import PIECE_BYTES

log = structlog.get_logger()

INTERVAL_SECONDS = 60.0
"""Interval between rounds: other programs' files displace cached ones."""

RATE = 512 * 2**20
"""Bytes per second that are read at most."""


class Reader(Protocol):
    """See `ReadAhead`. Its methods block."""

    def room(self) -> int: ...
    def files(self, checkpoint: Path) -> dict[Path, int]: ...
    def read(self, file: Path, offset: int) -> int | None: ...


class Warming:
    """Reads files ahead, in rounds. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        clock: Clock,
        loaded: Callable[[], set[str]],
        busy: Callable[[], bool],
    ) -> None:
        """`loaded` returns the paths of loaded weights; `busy`: True while a load runs."""
        self._registry, self._lookups, self._clock = registry, lookups, clock
        self._loaded, self._busy = loaded, busy
        self._problems: dict[str, str] = {}
        """Problems that were logged, by record."""

    async def run(self, reader: Reader) -> None:
        """Read ahead at each interval, forever."""
        while True:
            await sleep(self._clock, INTERVAL_SECONDS)
            try:
                await self.read_ahead(reader)
            except Exception:
                log.exception("files were not read ahead")

    async def read_ahead(self, reader: Reader) -> None:
        """Read the files of all cold records ahead, once."""
        cold = self._cold()
        self._problems = {s.record.name: self._problems.get(s.record.name, "") for s in cold}
        if not cold:
            return
        room = await asyncio.to_thread(reader.room)
        done = self._loaded()
        for state in cold:
            if self._busy():
                return
            name = state.record.name
            try:
                checkpoint = await self._checkpoint(state)
                paths = [path for path in dict.fromkeys(checkpoint.paths) if path not in done]
                files: dict[Path, int] = {}
                for path in paths:
                    files |= await asyncio.to_thread(reader.files, Path(path))
                # Not the size of the tensors: a file may have more.
                size = sum(files.values())
                if size > room:
                    self._note(name, f"its {size} bytes do not fit in the {max(0, room)} available")
                    continue
                room -= size
                done.update(paths)
                self._problems[name] = ""
                for file in files:
                    await self._read(reader, file)
            except Exception as error:  # noqa: BLE001  a problem of this record only
                self._note(name, f"{error}")

    def _cold(self) -> list[RecordState]:
        """Records to keep warm, in the order of their priority."""
        phases = (Phase.WAITING, Phase.RESTING)
        cold = [
            state
            for state in self._registry.states.values()
            if state.record.spec.warm and not state.record.spec.suspend and state.phase in phases
        ]
        return sorted(cold, key=lambda s: (-s.record.spec.priority, s.record.name))

    async def _checkpoint(self, state: RecordState) -> Checkpoint:
        ref = state.record.spec.ref
        return self._lookups.checkpoint(ref) or await self._lookups.find(ref)

    async def _read(self, reader: Reader, file: Path) -> None:
        """Read a file, until a load begins."""
        offset: int | None = 0
        while offset is not None and not self._busy():
            offset = await asyncio.to_thread(reader.read, file, offset)
            if offset is not None:
                await sleep(self._clock, PIECE_BYTES / RATE)

    def _note(self, name: str, problem: str) -> None:
        """Log a new problem."""
        if self._problems.get(name) != problem:
            self._problems[name] = problem
            log.info("the files of a model are not kept in the page cache", name=name, why=problem)

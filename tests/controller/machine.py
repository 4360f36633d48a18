"""The real controller in a world with faults: fake engine, catalogue, files and time.

Each step of `World` ends when no task can continue without another step; `check` then asserts that
the state keeps the design's guarantees.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.controller import Controller, RecordView
from reconciler.controller.reconciler import WRITE_AGAIN_SECONDS
from reconciler.core.absorb import EMPTY_SECONDS, VANISHED_SECONDS
from reconciler.core.backoff import FIRST_SECONDS, LONGEST_SECONDS
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import (
    HTTP,
    Instance,
    LoadRequest,
    LoadSpec,
    Record,
)
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot
from reconciler.store import Store
from tests.controller import promises
from tests.controller.fakes import FakeClock, FakeSource
from tests.controller.faulty import DIED, FakeCatalog, FaultyEngine, Inline, Pending
from tests.controller.leasing import FakeRequest

FLAW = Diagnostic("bad", SourceLocation(1, 1))


@dataclass
class Failures:
    """Consecutive failures of one generation of a record."""

    key: tuple[object, ...]
    count: int
    at: float
    permanent: bool
    checkpoint: Checkpoint | None


class World:
    """A controller and everything around it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.threads = Inline()
        self.loop.set_default_executor(self.threads)
        self.clock = FakeClock()
        self.catalog = FakeCatalog()
        self.files: dict[str, tuple[tuple[str, LoadSpec], ...] | None] = {}
        """Documents by file; None if the file is invalid."""
        self.unreadable = False
        self.calls: list[asyncio.Task[RecordView]] = []
        """Pending load and put calls."""
        self.asking: list[asyncio.Task[None]] = []
        """Pending requests for an instance."""
        self.acknowledged: set[str] = set()
        """Names of http records whose load was acknowledged to a caller."""
        self.failures: dict[str, Failures] = {}
        """Latest failures by record."""
        self.given_up: list[tuple[Record, LoadSpec, str]] = []
        """Permanent failures: the record, and the fingerprint of the files."""
        self.generations: dict[tuple[str, object], Record] = {}
        self.violations: list[str] = []
        self.unloads: list[asyncio.Task[None]] = []
        self.boots = 1
        self.start()

    # -- steps -----------------------------------------------------------------------------

    def start(self) -> None:
        self.store = Store(Path(self._directory.name))
        self.writable = True
        self.source = FakeSource()

        def make(on_death: Callable[[Instance, Problem], None]) -> FaultyEngine:
            self.engine = FaultyEngine(self, on_death)
            return self.engine

        self.controller = Controller(
            self.store,
            self.catalog,  # type: ignore[arg-type]
            make,
            [self.source],
            self.clock,
            hub_cache=Path(self._directory.name) / "hub",
            boot_id=f"boot-{self.boots}",
        )
        self.run(self.controller.start())
        self.scan()

    def restart(self) -> None:
        self.hang_up()
        self.run(self.controller.close())
        self._collect()
        self.store.close()
        self.failures.clear()
        self.given_up.clear()
        self.start()

    def crash(self, *, reboot: bool) -> None:
        """Crash the daemon, or the machine if `reboot`, and start again."""
        self.hang_up()
        self.store.close()  # later writes of the controller are lost
        self.run(self.controller.close())
        self._collect()
        self.failures.clear()
        self.given_up.clear()
        self.boots += reboot
        self.start()

    def let_write(self, can: bool) -> None:
        """Fill the disk, or free space on it, which the controller notices after a while."""
        self.store._db.execute(f"PRAGMA query_only = {not can}")
        self.writable = can
        if can:
            self.pass_time(WRITE_AGAIN_SECONDS)
            assert self.controller.problem is None

    def sicken(self, model: str, error: type[Exception]) -> None:
        """Make lookups of a model raise an error, or hang."""
        self.catalog.sick[model] = error

    def cure(self) -> None:
        """Make lookups of all models work again, and resume those that hang."""
        self.catalog.sick.clear()
        self.threads.resume()
        self.settle()

    def is_sick(self, record: Record) -> bool:
        """True if lookups of a model of the record fail."""
        specs = (record.spec, record.last_good)
        return any(spec is not None and spec.model in self.catalog.sick for spec in specs)

    def clear(self, name: str) -> None:
        """Clear a record's failures, or get the error that this cannot be persisted."""

        async def cleared() -> None:
            with contextlib.suppress(LoadError):
                self.controller.clear(name)
                self.failures.pop(name, None)
                self.given_up = [g for g in self.given_up if g[0].name != name]

        self.run(cleared())

    def close(self) -> None:
        self.hang_up()
        self.run(self.controller.close())
        self._collect()
        self.store.close()
        self.runner.close()
        self._directory.cleanup()

    def run(self, coroutine: Any) -> None:
        """Run a coroutine, and then all tasks that can continue."""
        self.runner.run(coroutine)
        self.settle()

    def settle(self) -> None:
        async def idle() -> None:
            for _ in range(10_000):
                await asyncio.sleep(0)
                if not self.loop._ready:  # type: ignore[attr-defined]
                    return
            raise AssertionError("it never comes to rest")

        self.runner.run(idle())

    def scan(self) -> None:
        """Scan the directory, as after an event or at a rescan."""
        if self.unreadable:
            snapshot = Snapshot(self.source.name, unreadable="gone")
        else:
            files = tuple(
                ManifestFile(path, flaws=(FLAW,))
                if documents is None
                else ManifestFile(
                    path, tuple(Declared(n, s, i) for i, (n, s) in enumerate(documents))
                )
                for path, documents in sorted(self.files.items())
            )
            snapshot = Snapshot(self.source.name, files, empty=not files)
        self.source.queue.put_nowait(snapshot)
        self.settle()

    def load(self, request: LoadRequest) -> None:
        async def begin() -> None:
            self.calls.append(asyncio.create_task(self.controller.load(request)))

        self.run(begin())
        self._collect()

    def put(self, name: str, spec: LoadSpec) -> None:
        async def begin() -> None:
            putting = self.controller.put(name, spec, wait=not spec.suspend)
            if spec.suspend:
                with contextlib.suppress(LoadError):
                    await putting
            else:
                self.calls.append(asyncio.create_task(putting))

        self.run(begin())
        self._collect()

    def ask(self, name: str) -> None:
        """Send a request for an instance, or for any instance of a model."""

        async def routed() -> None:
            found = await self.controller.ready_for(name)
            right = (found, self.engine.loaded[found].spec.model)
            self.expect(name in right, f"{found}, which holds {right[1]}, answers for {name}")

        async def begin() -> None:
            self.asking.append(asyncio.create_task(routed()))

        self.run(begin())
        self._collect()

    def complete(self, name: str, size: int) -> None:
        """Send a completion request whose KV cache needs `size` bytes beyond the reservation."""

        async def answered() -> None:
            async with self.controller.request(name, "completions", str(size).encode()) as reply:
                async for _ in reply.chunks:
                    pass

        async def begin() -> None:
            self.asking.append(asyncio.create_task(answered()))

        self.run(begin())

    def end_request(self, request: FakeRequest) -> None:
        """Complete a request; the worker is about to release its memory."""
        if not request.ended.done():
            request.ended.set_result(None)
        self.settle()

    def free_request(self, request: FakeRequest) -> None:
        """Release the memory of a request."""
        self.end_request(request)
        self.engine.sessions.free(request)

    def end_recall(self, *, answered: bool) -> None:
        """Deliver a worker's response to a recall, or lose it."""
        self.engine.sessions.recalls[0].set_result(answered)
        self.settle()

    def hang_up(self) -> None:
        """Disconnect all waiting callers."""
        for task in self.asking:
            task.cancel()
        self.settle()
        self.asking.clear()

    def unload(self, name: str) -> None:
        async def begin() -> None:
            self.unloads.append(asyncio.create_task(self.controller.unload(name)))

        self.run(begin())
        self.acknowledged.discard(name)
        self._collect()

    def end(self, pending: Pending, problem: Problem | None) -> None:
        """End an action of the engine."""
        if problem is None:
            pending.end.set_result(None)
        else:
            self.failed(pending.record, pending.spec, problem, pending.checkpoint)
            pending.end.set_exception(LoadError(problem))
        self.settle()
        self._collect()

    def kill(self, name: str) -> None:
        self.failed(self.record(name), self.engine.loaded[name].spec, DIED, None)
        self.engine.kill(name)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()
        self._collect()

    def _collect(self) -> None:
        """Process the results of finished calls."""
        self.settle()
        for unload in [u for u in self.unloads if u.done()]:
            self.unloads.remove(unload)
            assert isinstance(unload.exception(), LoadError | None)
        for asking in [t for t in self.asking if t.done()]:
            self.asking.remove(asking)
            assert isinstance(asking.exception(), LoadError | None), asking.exception()
        for task in [t for t in self.calls if t.done()]:
            self.calls.remove(task)
            if task.exception() is None:
                answer = task.result()
                assert answer.status.ready
                if answer.record.owner == HTTP:
                    self.acknowledged.add(answer.record.name)
            else:
                assert isinstance(task.exception(), LoadError), task.exception()

    # -- what the engine sees --------------------------------------------------------------

    def record(self, name: str) -> Record | None:
        answer = self.controller.answer(name)
        return answer.record if answer is not None else None

    def expect(self, holds: bool, words: str) -> None:
        """Record a violation; an exception in a task would count as a failed load."""
        if not holds:
            self.violations.append(words)

    def load_begins(self, name: str, spec: LoadSpec, checkpoint: Checkpoint) -> Record | None:
        record = self.record(name)
        self.expect(record is not None, f"{name} is loaded without a record")
        if record is None:
            return None
        wanted = spec.loads_like(record.spec) or spec == record.last_good
        self.expect(wanted, f"{name} is loaded with a spec that is not declared")
        failures = self.failures.get(name)
        if failures is not None and failures.key == (record.created_at, record.generation, spec):
            delay = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (failures.count - 1))
            early = self.clock.seconds < failures.at + delay
            self.expect(not early or failures.permanent, f"{name} is tried too early")
            vain = failures.permanent and failures.checkpoint == checkpoint
            self.expect(not vain, f"{name} is tried again though nothing changed")
        return record

    def failed(
        self,
        record: Record | None,
        spec: LoadSpec | None,
        problem: Problem,
        checkpoint: Checkpoint | None,
    ) -> None:
        """Record a failure, counted as the design specifies."""
        if record is None or spec is None:
            return
        if problem.permanent and checkpoint is not None:
            self.given_up.append((record, spec, checkpoint.fingerprint))
        key = (record.created_at, record.generation, spec)
        before = self.failures.get(record.name)
        count = before.count + 1 if before is not None and before.key == key else 1
        self.failures[record.name] = Failures(
            key, count, self.clock.seconds, problem.permanent, checkpoint
        )

    # -- guarantees ------------------------------------------------------------------------

    def check(self) -> None:
        self._collect()
        promises.check(self)

    def converge(self) -> None:
        """Assert that without further faults, everything that can be loaded is loaded."""
        self.unreadable = False
        self.let_write(True)
        self.scan()
        self._come_to_rest()
        if self.catalog.sick:  # healthy models load while others are still sick
            promises.check_settled(self)
            self.cure()
            self._come_to_rest()
        assert not self.calls
        promises.check_settled(self)

    def _come_to_rest(self) -> None:
        for _ in range(60):
            for request in self.engine.sessions.requests():
                self.free_request(request)
            while self.engine.sessions.recalls:
                self.end_recall(answered=True)
            while self.engine.pending:
                self.end(self.engine.pending[0], None)
            self.check()
            self.pass_time(max(LONGEST_SECONDS, EMPTY_SECONDS, VANISHED_SECONDS))
            if not (self.engine.pending or self.engine.sessions.recalls):
                break

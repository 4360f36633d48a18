"""Reserved and leased memory never exceed the budget, in any order of events."""

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconciler.controller.leases import WAIT_SECONDS, MemoryLeases
from reconciler.core.errors import LoadError
from reconciler.core.protocol import Lease
from reconciler.core.records import EffectiveSettings, Instance, LoadSpec
from tests.controller.fakes import FakeClock
from tests.controller.leasing import FakeRequest, FakeSessions

BUDGET = 100
NAMES = ("a", "b", "c")
CONFIG = EffectiveSettings(
    100, 1, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)


class Leasing(RuleBasedStateMachine):
    """Late requests, disconnecting clients, lost responses, and loads that need memory."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.workers = FakeSessions()
        self.loaded: dict[str, Instance] = {}
        self.replaced: list[Instance] = []
        self.loads: dict[asyncio.Task[None], int] = {}
        """Waiting and running loads, with the bytes that they reserve."""
        self.clock = FakeClock()
        self.leases = MemoryLeases(self, self.available, self.clock)
        self.asking: list[asyncio.Task[None]] = []
        self.serial = itertools.count(1)
        for name in ("a", "b"):
            self.add(name, 10)

    # -- inputs of leases ------------------------------------------------------------------

    def instances(self) -> tuple[Instance, ...]:
        return tuple(self.loaded.values())

    def outgoing(self) -> tuple[Instance, ...]:
        return tuple(self.replaced)

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        return await self.workers.recall(leases)

    def available(self, leased: Mapping[str, int]) -> int:
        return BUDGET - self.reserved(self.loads) - sum(leased.values())

    def reserved(self, loads: Any) -> int:
        instances = (*self.loaded.values(), *self.replaced)
        return sum(i.session_bytes for i in instances) + sum(self.loads[load] for load in loads)

    # -- steps -----------------------------------------------------------------------------

    def settle(self, coroutine: Any = None) -> None:
        async def idle() -> None:
            if coroutine is not None:
                await coroutine
            while self.runner.get_loop()._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.runner.run(idle())

    @precondition(lambda self: self.loaded)
    @rule(
        index=st.integers(0, 2),
        size=st.sampled_from([60, 60, 5]),
        arrives=st.sampled_from([True, True, False]),
    )
    def ask(self, index: int, size: int, arrives: bool) -> None:
        name = sorted(self.loaded)[index % len(self.loaded)]

        async def answered() -> None:
            async with self.leases.lease(name) as lease:
                if name in self.loaded:
                    request = FakeRequest(name, self.loaded[name].session, lease, size)
                    await self.workers.answer(request)

        async def begin() -> None:
            self.asking.append(asyncio.create_task(answered()))

        self.settle(begin())
        session = self.workers.of(self.loaded[name].session)
        if arrives and session.arriving:
            session.arrive()

    @precondition(lambda self: self.workers.requests())
    @rule(index=st.integers(0, 9), what=st.sampled_from(["arrives", "ends", "is freed"]))
    def go_on_with_a_request(self, index: int, what: str) -> None:
        requests = self.workers.requests()
        request = requests[index % len(requests)]
        session = self.workers.of(request.session)
        if what == "arrives":
            if session.arriving:
                session.arrive()
            return
        if not request.ended.done():
            request.ended.set_result(None)
        self.settle()
        if what == "is freed":
            self.workers.free(request)

    @precondition(lambda self: self.workers.recalls)
    @rule(index=st.integers(0, 9), answered=st.sampled_from([True, True, False]))
    def end_a_recall(self, index: int, answered: bool) -> None:
        recalls = self.workers.recalls
        recalls[index % len(recalls)].set_result(answered)
        self.settle()
        self.drop_failed_loads()

    @rule(size=st.sampled_from([70, 40, 10]))
    def begin_a_load(self, size: int) -> None:
        """Begin a load that fits beside the reservations, as the plan ensures."""
        if self.reserved(self.loads) + size > BUDGET:
            return

        async def begin() -> None:
            self.loads[asyncio.create_task(self.leases.make_room())] = size

        self.settle(begin())
        self.drop_failed_loads()

    def drop_failed_loads(self) -> None:
        for load in [load for load in self.loads if load.done()]:
            if load.exception() is not None:
                assert isinstance(load.exception(), LoadError)
                del self.loads[load]

    @precondition(lambda self: any(load.done() for load in self.loads))
    @rule(name=st.sampled_from(NAMES), replaces=st.booleans())
    def end_a_load(self, name: str, replaces: bool) -> None:
        load = next(load for load in self.loads if load.done())
        size = self.loads.pop(load)
        if name in self.loaded and replaces:
            self.replaced.append(self.loaded.pop(name))
        if name not in self.loaded:
            self.add(name, size)

    def add(self, name: str, size: int) -> None:
        session = str(next(self.serial))
        self.loaded[name] = Instance(
            name, LoadSpec("p/m"), "/p/m", CONFIG, 0, size, session=session
        )

    @rule(name=st.sampled_from(NAMES), old=st.booleans(), chance=st.integers(0, 3))
    def lose_a_session(self, name: str, old: bool, chance: int) -> None:
        if chance:  # rare
            return
        gone = self.replaced.pop(0) if old and self.replaced else self.loaded.pop(name, None)
        if gone is not None:
            self.workers.by_session.pop(gone.session, None)

    @rule(seconds=st.sampled_from([1.0, 1.0, 1.0, WAIT_SECONDS]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()
        self.drop_failed_loads()

    # -- guarantees ------------------------------------------------------------------------

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        if not hasattr(self, "workers"):
            return
        there = {i.session for i in (*self.loaded.values(), *self.replaced)}
        sessions = {s: w for s, w in self.workers.by_session.items() if s in there}
        possible = {session: worker.possible for session, worker in sessions.items()}
        self.drop_failed_loads()
        admitted = self.reserved([load for load in self.loads if load.done()])
        assert admitted + sum(possible.values()) <= BUDGET, possible
        held = self.leases.held()
        assert all(size <= held.get(session, 0) for session, size in possible.items())

    def teardown(self) -> None:
        """Assert that loads get their memory once the earlier requests have ended."""
        if not hasattr(self, "workers"):
            return
        for _ in range(10):
            for request in self.workers.requests():
                self.workers.free(request)
                if not request.ended.done():
                    request.ended.set_result(None)
            for recall in self.workers.recalls:
                recall.set_result(True)
            self.settle()
            self.let_time_pass(1.0)
        assert all(load.done() for load in self.loads)

        async def end() -> None:
            for task in self.asking:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self.asking, return_exceptions=True)

        self.runner.run(end())
        self.runner.close()


def test_reserved_and_leased_memory_never_exceed_the_budget() -> None:
    run_state_machine_as_test(
        Leasing,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

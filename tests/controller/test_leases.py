"""Unreserved memory is leased to instances with active requests, and recalled for others."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest

from reconciler.controller import leases as module
from reconciler.controller.leases import MemoryLeases
from reconciler.core.errors import LoadError, Reason
from reconciler.core.protocol import Lease
from reconciler.core.records import EffectiveSettings, Instance, LoadSpec, RequestedSettings
from tests.controller.fakes import Bench, FakeClock, load, request, spin
from tests.controller.machine import World

CONFIG = EffectiveSettings(
    100, 1, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)


class Sessions:
    """Instances a, b and c with separate checkpoints, and the memory use of their workers."""

    def __init__(self, *names: str) -> None:
        self.loaded = {name: _instance(name) for name in names}
        self.replaced: tuple[Instance, ...] = ()
        self.in_use: dict[str, int] = {}
        self.recalled: list[dict[str, int]] = []
        self.silent = False
        self.free = 100
        self.clock = FakeClock()
        self.leases = MemoryLeases(self, self.available, self.clock)

    def instances(self) -> tuple[Instance, ...]:
        return tuple(self.loaded.values())

    def outgoing(self) -> tuple[Instance, ...]:
        return self.replaced

    def available(self, leased: Mapping[str, int]) -> int:
        return self.free - sum(leased.values())

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        self.recalled.append({session: lease.allowed for session, lease in leases.items()})
        return {} if self.silent else {session: self.in_use.get(session, 0) for session in leases}

    async def ask(self, name: str, until: AsyncExitStack) -> int:
        """Begin a request, and return its leased bytes."""
        return (await until.enter_async_context(self.leases.lease(name))).allowed


def _instance(name: str, session: str = "") -> Instance:
    spec = LoadSpec(f"p/{name}")
    return Instance(name, spec, f"/p/{name}", CONFIG, 1, 1, session=session or f"{name}1")


@pytest.fixture
async def asking() -> AsyncIterator[AsyncExitStack]:
    """Requests that run until the stack is closed."""
    async with AsyncExitStack() as stack:
        yield stack


async def test_no_byte_is_leased_twice(asking: AsyncExitStack) -> None:
    sessions = Sessions("a", "b", "c")
    assert [await sessions.ask(name, asking) for name in "abc"] == [33, 33, 34]
    assert sessions.leases.held() == {"a1": 33, "b1": 33, "c1": 34}
    assert sessions.recalled == []


async def test_a_lease_persists_after_its_requests_until_another_instance_needs_it(
    asking: AsyncExitStack,
) -> None:
    sessions = Sessions("a")
    async with AsyncExitStack() as first:
        assert await sessions.ask("a", first) == 100
    assert sessions.leases.held() == {"a1": 100}
    sessions.loaded["b"] = _instance("b")
    assert await sessions.ask("b", asking) == 50
    assert sessions.recalled == [{"a1": 50}]
    assert sessions.leases.held() == {"a1": 50, "b1": 50}


async def test_requests_of_another_instance_recall_nothing_from_one_with_active_requests(
    asking: AsyncExitStack,
) -> None:
    sessions = Sessions("a")
    assert await sessions.ask("a", asking) == 100
    sessions.loaded["b"] = _instance("b")
    assert await sessions.ask("b", asking) == 0
    assert await sessions.ask("a", asking) == 100
    assert sessions.recalled == []


async def test_memory_that_was_not_returned_is_not_leased_again(asking: AsyncExitStack) -> None:
    sessions = Sessions("a")
    async with AsyncExitStack() as first:
        await sessions.ask("a", first)
    sessions.loaded["b"] = _instance("b")
    sessions.silent = True
    assert await sessions.ask("b", asking) == 0
    sessions.silent = False
    sessions.in_use = {"a1": 70}  # of a request whose client has disconnected
    assert await sessions.ask("b", asking) == 30
    assert sessions.leases.held() == {"a1": 70, "b1": 30}


async def test_a_load_waits_until_active_requests_have_returned_the_memory_it_needs(
    asking: AsyncExitStack,
) -> None:
    sessions = Sessions("a")
    first = AsyncExitStack()
    assert await sessions.ask("a", first) == 100
    sessions.in_use = {"a1": 60}
    sessions.free = 30  # a load begins
    room = asyncio.create_task(sessions.leases.make_room())
    await spin(lambda: bool(sessions.recalled))
    assert sessions.leases.held() == {"a1": 60}
    assert await sessions.ask("a", asking) == 30  # a later request gets no more
    assert not room.done()
    sessions.in_use = {"a1": 10}
    await first.aclose()
    await room
    assert sessions.leases.held() == {"a1": 30}


async def test_a_load_whose_recall_fails_names_the_holders(asking: AsyncExitStack) -> None:
    sessions = Sessions("a")
    await sessions.ask("a", asking)
    sessions.in_use = {"a1": 60}
    sessions.free = 30
    room = asyncio.create_task(sessions.leases.make_room())
    while not room.done():
        await asyncio.sleep(0)
        sessions.clock.advance(module.RECALL_SECONDS)
    with pytest.raises(LoadError, match=r"in 30 s: 'a' 60 B") as raised:
        room.result()
    assert raised.value.problem.reason is Reason.INSUFFICIENT_MEMORY


async def test_a_replacement_does_not_wait_for_the_instance_that_it_replaces(
    asking: AsyncExitStack,
) -> None:
    sessions = Sessions("a")
    await sessions.ask("a", asking)
    sessions.in_use, sessions.free = {"a1": 60}, 30
    await sessions.leases.make_room(leaving="a")


@pytest.mark.parametrize("how", ["died", "was replaced"])
async def test_a_lease_ends_with_its_session(asking: AsyncExitStack, how: str) -> None:
    sessions = Sessions("a", "b")
    assert await sessions.ask("a", asking) == 50
    old = sessions.loaded.pop("a")
    if how == "was replaced":
        sessions.loaded["a"] = _instance("a", "a2")
        sessions.replaced = (old,)
        assert sessions.leases.held() == {"a1": 50}  # its requests continue
        assert await sessions.ask("a", asking) == 25
        sessions.replaced = ()
        assert sessions.leases.held() == {"a2": 25}
    else:
        assert sessions.leases.held() == {}


async def test_a_response_to_an_earlier_recall_does_not_complete_a_later_one(
    asking: AsyncExitStack,
) -> None:
    sessions = Sessions("a")
    answers: list[asyncio.Future[dict[str, int]]] = []

    async def recall(_leases: Mapping[str, Lease]) -> dict[str, int]:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    sessions.recall = recall  # type: ignore[method-assign,assignment]
    async with AsyncExitStack() as first:
        await sessions.ask("a", first)
    sessions.free = 60
    rooms = [asyncio.create_task(sessions.leases.make_room())]
    await spin(lambda: len(answers) == 1)
    sessions.free = 100  # that load was cancelled
    assert await sessions.ask("a", asking) == 100  # a request uses all of it
    sessions.free = 10
    rooms.append(asyncio.create_task(sessions.leases.make_room()))
    await spin(lambda: len(answers) == 2)
    answers[0].set_result({"a1": 0})  # sent before that request
    await asyncio.sleep(0)
    assert sessions.leases.held() == {"a1": 100}
    answers[1].set_result({"a1": 70})
    await asyncio.sleep(0)
    assert sessions.leases.held() == {"a1": 70}
    for room in rooms:
        room.cancel()


async def test_a_load_recalls_memory_from_an_instance_that_is_always_busy(bench: Bench) -> None:
    await load(bench, request("tiny/llama", context_length=1024))
    async with bench.controller.request("tiny/llama", "completions", b""):
        await load(bench, request("tiny/qwen3", context_length=8192))
        async with bench.controller.request("tiny/llama", "completions", b""):
            pass
    before, after = (leased for *_, leased in bench.engine.requests)
    loaded = bench.engine.loaded["tiny/qwen3"]
    assert before - after == loaded.shared_bytes + loaded.session_bytes


def test_a_load_that_waited_for_memory_is_replanned_if_its_weights_were_unloaded(
    world: World,
) -> None:
    world.files["1.yaml"] = (("a", LoadSpec("p/small")),)
    world.scan()
    world.end(world.engine.pending[0], None)
    world.complete("a", 0)  # all memory stays leased
    world.files["1.yaml"] = (
        ("a", LoadSpec("p/other", RequestedSettings(context_length=1))),
        ("b", LoadSpec("p/small", RequestedSettings(context_length=11))),
    )
    world.scan()
    world.converge()
    assert {i.name for i in world.engine.instances()} == {"a", "b"}

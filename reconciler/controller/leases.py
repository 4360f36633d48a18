"""Memory that is reserved for nobody, leased to instances that answer requests.

An instance is admitted with what it reserves. What the budget has beyond the sum of that is leased
out, so that requests can be longer and more prompts kept. At every moment

    reserved + leased <= budget

A lease begins with a request and outlasts it: finished requests leave their KV caches in it. It
ends with its session, or when it is recalled: for the requests of another instance from one that
rests, for a load from every one. What is recalled counts as leased until the worker has said what
its running requests still take, and those keep it until they end. Nothing new starts in it, so a
load waits for running requests alone, however many come after them.

Two numbers make that safe. `allowed` is what the worker was told last; `held` is the most that it
can take of what it was ever told, and what is counted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from reconciler.controller.clock import Clock
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.memory import readable_bytes
from reconciler.core.protocol import NO_LEASE, Lease
from reconciler.core.records import Instance

WAIT_SECONDS = 30.0
"""For running requests to give back what a load needs; as long as they have when one drains."""

RECALL_SECONDS = 1.0
"""Between recalls, if no request ends meanwhile."""


class Sessions(Protocol):
    """The part of the engine that holds them."""

    def instances(self) -> tuple[Instance, ...]: ...
    def outgoing(self) -> tuple[Instance, ...]: ...
    async def recall(self, leases: Mapping[str, Lease]) -> Mapping[str, int]: ...


@dataclass(eq=False)
class _Leased:
    """What a session has."""

    instance: Instance
    allowed: int = 0
    held: int = 0
    serial: int = 0
    """Of the statement of `allowed`."""
    requests: int = 0


class MemoryLeases:
    """Bytes by session."""

    def __init__(
        self, sessions: Sessions, available: Callable[[Mapping[str, int]], int], clock: Clock
    ) -> None:
        """`available` returns the bytes of the budget that are neither reserved nor leased, given
        the leased bytes by checkpoint; less than 0 if there is not enough for what is reserved.
        """
        self._sessions = sessions
        self._available = available
        self._clock = clock
        self._leased: dict[str, _Leased] = {}
        self._serial = 0
        self._freed = asyncio.Event()

    def held(self) -> dict[str, int]:
        """Bytes that are leased, by session."""
        self._drop_ended()
        return {session: leased.held for session, leased in self._leased.items()}

    def by_checkpoint(self) -> dict[str, int]:
        """Bytes that are leased, by the checkpoint of the session."""
        self._drop_ended()
        held: dict[str, int] = {}
        for leased in self._leased.values():
            path = leased.instance.checkpoint
            held[path] = held.get(path, 0) + leased.held
        return held

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Lease]:
        """Lease memory to the instance `name` for one of its requests; nothing if it is not there.

        Enter the request's own context right after this one, without another await between them:
        the lease is that of the session that is loaded now.
        """
        leased = self._of(name)
        if leased is None:
            yield NO_LEASE
            return
        leased.requests += 1
        try:
            short = self._share(leased) - leased.held - max(0, self._available_now())
            if short > 0:
                await self._recall(short, [o for o in self._leased.values() if o is not leased])
            current = self._of(name)
            if current is not None and current is not leased:  # it was replaced meanwhile
                leased.requests -= 1
                leased = current
                leased.requests += 1
            yield self._extend(leased)
        finally:
            leased.requests -= 1
            self._freed.set()

    async def make_room(self, leaving: str | None = None) -> None:
        """Recall what the budget lacks for what is reserved, and wait for running requests.

        `leaving` names an instance that goes first, with its lease. Raises `LoadError`.
        """
        end = self._clock.monotonic() + WAIT_SECONDS
        while (holders := self._in_the_way(leaving)) and (short := -self._available_now()) > 0:
            self._freed.clear()
            await self._recall(short, holders, of_all=True)
            holders = self._in_the_way(leaving)
            if not holders or self._available_now() >= 0:
                return
            if self._clock.monotonic() >= end:
                raise LoadError(_not_given_back(holders))
            timer = self._clock.call_later(RECALL_SECONDS, self._freed.set)
            try:
                await self._freed.wait()
            finally:
                timer.cancel()

    def _of(self, name: str) -> _Leased | None:
        self._drop_ended()
        for instance in self._sessions.instances():
            if instance.name == name:
                return self._leased.setdefault(instance.session, _Leased(instance))
        return None

    def _drop_ended(self) -> None:
        """A session that is gone takes nothing."""
        there = (*self._sessions.instances(), *self._sessions.outgoing())
        sessions = {instance.session for instance in there}
        for session in self._leased.keys() - sessions:
            del self._leased[session]

    def _available_now(self) -> int:
        return self._available(self.by_checkpoint())

    def _share(self, leased: _Leased) -> int:
        """What it should have: equal parts of what no other instance that answers has."""
        resting = self._resting(leased)
        free = self._available_now() + leased.held + sum(other.held for other in resting)
        answering = {other.instance.session for other in self._leased.values() if other.requests}
        answering.add(leased.instance.session)
        idle = [i for i in self._sessions.instances() if i.session not in answering]
        return max(0, free) // (1 + len(idle))

    def _resting(self, leased: _Leased) -> list[_Leased]:
        others = [other for other in self._leased.values() if other is not leased]
        return [other for other in others if not other.requests]

    def _extend(self, leased: _Leased) -> Lease:
        """State what its worker may take from now on; what an answering one has stays."""
        available = self._available_now()
        room = leased.held + available if available >= 0 else leased.allowed
        wanted = min(self._share(leased), room)
        if leased.requests > 1:
            wanted = max(wanted, leased.allowed)
        self._state(leased, wanted)
        return Lease(leased.serial, leased.allowed)

    def _state(self, leased: _Leased, allowed: int) -> None:
        if allowed != leased.allowed or not leased.serial:
            self._serial += 1
            leased.serial, leased.allowed = self._serial, allowed
        leased.held = max(leased.held, allowed)

    async def _recall(
        self, short: int, holders: Iterable[_Leased], *, of_all: bool = False
    ) -> None:
        """Lower leases by so many bytes together, as far as they go; resting ones first.

        What answers is lowered only if `of_all`, and else asked for what it had before.
        """
        asked: dict[str, Lease] = {}
        for leased in sorted(holders, key=lambda one: (one.requests > 0, -one.held)):
            if short <= 0:
                break
            if of_all or not leased.requests:
                self._state(leased, min(leased.allowed, max(0, leased.held - short)))
            short -= leased.held - leased.allowed
            if leased.held > leased.allowed:
                asked[leased.instance.session] = Lease(leased.serial, leased.allowed)
        if not asked:
            return
        for session, in_use in (await self._sessions.recall(asked)).items():
            leased_now = self._leased.get(session)
            # After a later statement it may take more than it did when it answered.
            if leased_now is not None and leased_now.serial == asked[session].serial:
                leased_now.held = min(leased_now.held, max(leased_now.allowed, in_use))

    def _in_the_way(self, leaving: str | None) -> list[_Leased]:
        self._drop_ended()
        return [o for o in self._leased.values() if o.held and o.instance.name != leaving]


def _not_given_back(holders: Iterable[_Leased]) -> Problem:
    each = ", ".join(f"'{o.instance.name}' {readable_bytes(o.held)}" for o in holders)
    message = (
        f"running requests did not give back the memory that they were lent in {WAIT_SECONDS:g} s: "
        f"{each}; try again when they have ended"
    )
    return Problem(Reason.INSUFFICIENT_MEMORY, message, permanent=False)

"""Leases unreserved memory to instances that serve requests.

An instance is admitted with its reservation. The rest of the budget is leased, so that requests can
be longer and more prompts stay cached. The invariant is

    reserved + leased <= budget

A lease begins with a request and outlasts it: finished requests leave their KV caches in it. It
ends with its session or when it is recalled. A request of another instance recalls leases of
instances without requests; a load recalls all. Recalled memory counts as leased until the worker
has reported the use of its running requests, which keep that memory until they end. No request
starts in recalled memory, so a load waits only for requests that were running before it.

Two numbers make this safe. `allowed` is the limit last sent to the worker; `held` is the most that
the worker can use, given all limits ever sent and its reports. `held` is what counts.
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
"""Time for running requests to release the memory that a load needs; equal to the drain time."""

RECALL_SECONDS = 1.0
"""Interval between recalls if no request ends meanwhile."""


class Sessions(Protocol):
    """The part of the engine that holds sessions."""

    def instances(self) -> tuple[Instance, ...]: ...
    def outgoing(self) -> tuple[Instance, ...]: ...
    async def recall(self, leases: Mapping[str, Lease]) -> Mapping[str, int]: ...


@dataclass(eq=False)
class _Leased:
    """Lease of a session."""

    instance: Instance
    allowed: int = 0
    held: int = 0
    serial: int = 0
    """Serial number of the message that sent `allowed`."""
    requests: int = 0


class MemoryLeases:
    """Leased bytes by session."""

    def __init__(
        self, sessions: Sessions, available: Callable[[Mapping[str, int]], int], clock: Clock
    ) -> None:
        """`available` maps leased bytes by checkpoint to the bytes of the budget that are neither
        reserved nor leased; negative if the reservations exceed the budget.
        """
        self._sessions = sessions
        self._available = available
        self._clock = clock
        self._leased: dict[str, _Leased] = {}
        self._serial = 0
        self._freed = asyncio.Event()

    def held(self) -> dict[str, int]:
        """Leased bytes by session."""
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
        """Lease memory to the instance `name` for one request; an empty lease if it is not loaded.

        Enter the request's own context directly after this one, without another await between them:
        the lease belongs to the session that is loaded now.
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
            if current is not None and current is not leased:  # it was replaced in the meantime
                leased.requests -= 1
                leased = current
                leased.requests += 1
            yield self._extend(leased)
        finally:
            leased.requests -= 1
            self._freed.set()

    async def make_room(self, leaving: str | None = None) -> None:
        """Recall the memory that reservations lack, and wait for running requests to release it.

        `leaving` names an instance that is unloaded first, with its lease. Raises `LoadError`.
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
        """Drop leases of sessions that have ended."""
        there = (*self._sessions.instances(), *self._sessions.outgoing())
        sessions = {instance.session for instance in there}
        for session in self._leased.keys() - sessions:
            del self._leased[session]

    def _available_now(self) -> int:
        return self._available(self.by_checkpoint())

    def _share(self, leased: _Leased) -> int:
        """Equal share, in bytes, of the memory that is not leased to other serving instances."""
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
        """Set a new limit for its worker; never lower while other requests of the instance run."""
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
        """Lower leases by a total of `short` bytes, those of instances without requests first.

        Leases of instances with requests are lowered only if `of_all`; otherwise the worker is only
        asked to release memory above its current limit.
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
            # After a newer limit, the worker may use more than it reported.
            if leased_now is not None and leased_now.serial == asked[session].serial:
                leased_now.held = min(leased_now.held, max(leased_now.allowed, in_use))

    def _in_the_way(self, leaving: str | None) -> list[_Leased]:
        self._drop_ended()
        return [o for o in self._leased.values() if o.held and o.instance.name != leaving]


def _not_given_back(holders: Iterable[_Leased]) -> Problem:
    each = ", ".join(f"'{o.instance.name}' {readable_bytes(o.held)}" for o in holders)
    message = (
        f"running requests did not release their leased memory within {WAIT_SECONDS:g} s: "
        f"{each}; retry when they have ended"
    )
    return Problem(Reason.INSUFFICIENT_MEMORY, message, permanent=False)

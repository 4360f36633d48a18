"""Fake workers for memory leases: their requests, and their responses to recalls."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.protocol import Lease


@dataclass(eq=False)
class FakeRequest:
    """A client's request; its lease applies when it arrives, which may be much later."""

    name: str
    session: str
    lease: Lease
    wanted: int
    """Bytes beyond the reservation."""
    taken: int = 0
    ended: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass
class FakeSession:
    """A worker's state of one session."""

    lease: Lease = field(default_factory=Lease)
    arriving: list[FakeRequest] = field(default_factory=list)
    running: list[FakeRequest] = field(default_factory=list)

    def take(self, lease: Lease) -> None:
        if lease.serial > self.lease.serial:
            self.lease = lease

    @property
    def in_use(self) -> int:
        return sum(request.taken for request in self.running)

    @property
    def possible(self) -> int:
        """Maximum of bytes under the current lease and those in transit."""
        coming = [r.lease for r in self.arriving if r.lease.serial > self.lease.serial]
        return max(self.in_use, self.lease.allowed, *(lease.allowed for lease in coming), 0)

    def arrive(self) -> None:
        """Deliver the oldest request in transit, which starts if there is memory for it."""
        request = self.arriving.pop(0)
        self.take(request.lease)
        wanted = min(request.wanted, self.lease.allowed - self.in_use)
        request.taken = max(0, wanted)
        self.running.append(request)

    def recall(self, lease: Lease) -> int:
        self.take(lease)
        return self.in_use


class FakeSessions:
    """The sessions of all workers."""

    def __init__(self) -> None:
        self.by_session: dict[str, FakeSession] = {}
        self.recalls: list[asyncio.Future[bool]] = []
        """Pending recalls; the result False means that the response is lost."""

    def of(self, session: str) -> FakeSession:
        return self.by_session.setdefault(session, FakeSession())

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        in_use = {session: self.of(session).recall(lease) for session, lease in leases.items()}
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.recalls.append(answered)
        try:
            return in_use if await answered else {}
        finally:
            self.recalls.remove(answered)

    async def answer(self, request: FakeRequest) -> None:
        """Run a request until the test ends it; its memory is released a little later."""
        self.of(request.session).arriving.append(request)
        await request.ended

    def requests(self) -> list[FakeRequest]:
        return [r for s in self.by_session.values() for r in (*s.arriving, *s.running)]

    def free(self, request: FakeRequest) -> None:
        """Release the memory of a request, or drop one that never arrived."""
        session = self.of(request.session)
        for requests in (session.arriving, session.running):
            if request in requests:
                requests.remove(request)

"""Workers' side of memory leases, as far as a controller can see it: statements and requests."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.protocol import Lease


@dataclass(eq=False)
class FakeRequest:
    """Of a client; its lease is put in force when it arrives, which may be much later."""

    name: str
    session: str
    lease: Lease
    wanted: int
    """Bytes beside what is reserved."""
    taken: int = 0
    ended: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass
class FakeSession:
    """What a worker knows of one session."""

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
        """The most that it can take of what it was told, or is about to be told."""
        coming = [r.lease for r in self.arriving if r.lease.serial > self.lease.serial]
        return max(self.in_use, self.lease.allowed, *(lease.allowed for lease in coming), 0)

    def arrive(self) -> None:
        """The oldest request on its way comes in, and starts if there is memory for it."""
        request = self.arriving.pop(0)
        self.take(request.lease)
        wanted = min(request.wanted, self.lease.allowed - self.in_use)
        request.taken = max(0, wanted)
        self.running.append(request)

    def recall(self, lease: Lease) -> int:
        self.take(lease)
        return self.in_use


class FakeSessions:
    """All of them, by session."""

    def __init__(self) -> None:
        self.by_session: dict[str, FakeSession] = {}
        self.recalls: list[asyncio.Future[bool]] = []
        """That were not answered yet; False: the answer is lost."""

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
        """Run a request until somebody ends it; its memory is free a little later."""
        self.of(request.session).arriving.append(request)
        await request.ended

    def requests(self) -> list[FakeRequest]:
        return [r for s in self.by_session.values() for r in (*s.arriving, *s.running)]

    def free(self, request: FakeRequest) -> None:
        """The worker has let go of a request, or never got it."""
        session = self.of(request.session)
        for requests in (session.arriving, session.running):
            if request in requests:
                requests.remove(request)

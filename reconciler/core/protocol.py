"""What the daemon and a worker say to each other, as JSON over HTTP on a Unix socket.

    POST   /shapes            SeeShapes    -> Shapes            reads no weights
    POST   /checkpoint        LoadWeights  -> lines: WeightsRead ..., WeightsLoaded
    PUT    /sessions/NAME     OpenSession  -> SessionOpened     also replaces the session NAME
    DELETE /sessions/NAME     -> Usage     of the session that is no more
    POST   /leases            Recall       -> Recalled          lowers memory leases of sessions
    POST   /sessions/NAME/probe -> null    generates one token, if nothing else is going on
    GET    /pulse             -> Pulse     at once, whatever the MLX thread is doing
    POST   /sessions/NAME/DIALECT       a request in one of `core.dialects`
    any failure               -> WorkerFailure, status 500, or as the last line

A worker prints one `Hello` line when it can be spoken to. It ends with `GENERATION_DIED` when the
thread that owns MLX does.
"""

import json
from bisect import bisect_left
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Adapter, Machine, Shapes
from reconciler.core.records import EffectiveSettings, Phase, SettingWarning
from reconciler.core.reranker import Reranker

MODEL_HEADER = "X-Reconciler-Model"
"""Header of a completion request: the name to answer with."""

LEASE_HEADER = "X-Reconciler-Lease"
"""Header of a completion request: the `Lease` of its session."""

GENERATION_DIED = 70
"""Exit code of a worker whose MLX thread ended: sysexits.h's EX_SOFTWARE."""


CONTEXT_HEADER = "X-Reconciler-Context"
"""Header of a completion request: its `RequestContext`."""


@dataclass(frozen=True)
class RequestContext:
    """What the daemon knows of a request and its model, for dialects whose answers say so."""

    waited_seconds: float = 0.0
    """From the request's arrival until its model was ready."""
    loaded: bool = False
    """True if the model had to be loaded first."""
    architecture: str = ""
    quantization: str | None = None
    """Name of the format of the weights; None: they are not quantised."""
    runtime_version: str = ""
    """Of MLX."""

    def header(self) -> str:
        """The value of `CONTEXT_HEADER`."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, header: str | None) -> "RequestContext":
        """From a header; the defaults if there is none."""
        return msgspec.json.decode(header, type=cls) if header else cls()


NO_CONTEXT = RequestContext()


@dataclass(frozen=True)
class Reply:
    """A worker's answer to a completion request, as it comes."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    """Raises `LoadError` where the answer breaks off."""


@dataclass(frozen=True)
class Hello:
    """Printed once by a worker whose imports are done."""

    pid: int
    machine: Machine


@dataclass(frozen=True)
class Lease:
    """Memory that a session may take beside what is reserved for it.

    Requests are delayed and overtaken on their way; the statement with the highest serial is in
    force.
    """

    serial: int = 0
    """Of all leases of a daemon."""
    allowed: int = 0
    """Bytes."""

    def header(self) -> str:
        """The value of `LEASE_HEADER`."""
        return f"{self.serial} {self.allowed}"

    @classmethod
    def parse(cls, header: str | None) -> "Lease":
        """From a header; nothing is leased if there is none."""
        serial, _, allowed = (header or "0 0").partition(" ")
        return cls(int(serial), int(allowed))


NO_LEASE = Lease()


@dataclass(frozen=True)
class Recall:
    """Lower the leases of sessions, by name."""

    leases: dict[str, Lease]


@dataclass(frozen=True)
class Recalled:
    """The answer to `Recall`: kept prompts fill no more than was left to them."""

    in_use: dict[str, int]
    """Bytes that running requests take beside what is reserved, by session; none start in them."""
    live_bytes: int = 0
    """That the process takes now, without kept prompts."""


@dataclass(frozen=True)
class SeeShapes:
    """Build a model without its weights' bytes, and say what it works with."""

    path: str
    embedder: Embedder | None = None


@dataclass(frozen=True)
class LoadWeights:
    """Read a checkpoint. A worker does so once in its life."""

    path: str
    embedder: Embedder | None = None
    """How it makes vectors of texts; None: it generates."""
    reranker: Reranker | None = None
    """How it judges documents, if it is made for that."""


class WeightsRead(msgspec.Struct, frozen=True, tag=True):
    """How far the reading is, in bytes."""

    bytes_read: int
    bytes_total: int


class WeightsLoaded(msgspec.Struct, frozen=True, tag=True):
    """Times count from the arrival of the request."""

    phases: dict[str, Phase]
    weights_bytes: int


@dataclass(frozen=True)
class OpenSession:
    """Put settings over the weights. `experts_key` is the path in config.json that they edit."""

    config: EffectiveSettings
    experts_key: tuple[str, ...] = ()
    shapes: Shapes = field(default_factory=lambda: Shapes(0))
    session_bytes: int = 0
    """Memory that is held for its KV cache and for reading prompts."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Keys to add to requests that do not send them, in the names of OpenAI's requests."""
    adapter: Adapter | None = None
    """Goes on the weights, for this session alone."""


@dataclass(frozen=True)
class SessionOpened:
    """What was observed while the session answered its first token."""

    observed: EffectiveSettings
    unused: tuple[str, ...]
    """Settings that the model has no use for, such as the way of an attention it does not have."""
    phases: dict[str, Phase]
    memory_bytes: int
    """MLX's active memory for the session alone, after its first token."""
    warnings: tuple[SettingWarning, ...] = ()
    """Properties of the model that change how requests are served; shown in the record's status."""
    unused_defaults: tuple[str, ...] = ()
    """Keys of defaults that no request to this model can have; `warnings` say why."""


FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of `FirstTokens`; what is longer is in one more."""


@dataclass(frozen=True)
class FirstTokens:
    """How long requests waited for their first token: a histogram."""

    counts: tuple[int, ...] = (0,) * (len(FIRST_TOKEN_SECONDS) + 1)
    """Requests in each bucket of `FIRST_TOKEN_SECONDS`, and the longer ones."""
    seconds: float = 0.0
    """Of all of them together."""

    def with_one(self, seconds: float) -> "FirstTokens":
        """These, and a request that waited so long."""
        bucket = bisect_left(FIRST_TOKEN_SECONDS, seconds)
        counts = tuple(n + (i == bucket) for i, n in enumerate(self.counts))
        return FirstTokens(counts, self.seconds + seconds)

    def plus(self, other: "FirstTokens") -> "FirstTokens":
        """These and others."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return FirstTokens(counts, self.seconds + other.seconds)

    def latest(self, other: "FirstTokens") -> "FirstTokens":
        """The later one of two states of the same histogram."""
        return max(self, other, key=lambda one: sum(one.counts))


@dataclass(frozen=True)
class Usage:
    """What clients' requests took, since the session was opened."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_tokens: FirstTokens = FirstTokens()
    cached_tokens: int = 0
    """Of the prompts, found in a KV cache that was kept."""


@dataclass(frozen=True)
class Activity:
    """The KV cache of a session, in bytes."""

    kv_bytes: int = 0
    """That running requests have room for."""
    kept_bytes: int = 0
    """Of finished requests, given back when the memory is needed."""


@dataclass(frozen=True)
class Pulse:
    """What a worker's MLX thread is at."""

    steps: int
    """Counts all that it finished: jobs, steps of batches, pieces of weights."""
    busy: bool
    """Whether it has anything to do."""
    allowance: float = 0.0
    """Seconds that the step under way may take beyond a probe interval."""
    usage: dict[str, Usage] = field(default_factory=dict)
    """Of each open session, by its name."""
    memory_bytes: int = 0
    """That the process takes now."""
    kept_bytes: int = 0
    """Of that: KV caches of finished requests, given back when somebody needs the memory."""
    activity: dict[str, Activity] = field(default_factory=dict)
    """Of each open session, by its name."""


class WorkerFailure(msgspec.Struct, frozen=True, tag=True):
    """Why a request to a worker failed. Permanent: the same files will fail again."""

    message: str
    permanent: bool = False

"""Messages between the daemon and a worker, as JSON over HTTP on a Unix socket.

    POST   /shapes            SeeShapes    -> Shapes            reads no weights
    POST   /checkpoint        LoadWeights  -> lines: WeightsRead ..., WeightsLoaded
    PUT    /sessions/NAME     OpenSession  -> SessionOpened     also replaces the session NAME
    DELETE /sessions/NAME     -> Usage     of the closed session
    POST   /leases            Recall       -> Recalled          lowers memory leases of sessions
    POST   /sessions/NAME/probe -> null    generates one token, if the worker is idle
    GET    /pulse             -> Pulse     immediate, even if the MLX thread is busy
    POST   /sessions/NAME/DIALECT       a request in one of `core.dialects`
    any failure               -> WorkerFailure, status 500, or as the last line

A worker prints one `Hello` line when it is ready for requests. It exits with `GENERATION_DIED` when
the thread that owns MLX ends.
"""

import json
from bisect import bisect_left
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Adapter, Machine, Shapes
from reconciler.core.prompt_store import PromptStore
from reconciler.core.records import EffectiveSettings, Phase, SettingWarning
from reconciler.core.reranker import Reranker

MODEL_HEADER = "X-Reconciler-Model"
"""Header of a completion request: the model name to put in the response."""

LEASE_HEADER = "X-Reconciler-Lease"
"""Header of a completion request: the `Lease` of its session."""

GENERATION_DIED = 70
"""Exit code of a worker whose MLX thread ended: sysexits.h's EX_SOFTWARE."""


CONTEXT_HEADER = "X-Reconciler-Context"
"""Header of a completion request: its `RequestContext`."""


@dataclass(frozen=True)
class RequestContext:
    """Facts about a request and its model, for dialects that report them in responses."""

    waited_seconds: float = 0.0
    """Time from the request's arrival until its model was ready."""
    loaded: bool = False
    """True if the model had to be loaded first."""
    architecture: str = ""
    quantization: str | None = None
    """Name of the quantization format of the weights; None: not quantized."""
    runtime_version: str = ""
    """Version of MLX."""

    def header(self) -> str:
        """The value of `CONTEXT_HEADER`."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, header: str | None) -> "RequestContext":
        """Parse a header; return the defaults if there is none."""
        return msgspec.json.decode(header, type=cls) if header else cls()


NO_CONTEXT = RequestContext()


@dataclass(frozen=True)
class Reply:
    """A worker's response to a completion request, as a stream."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    """Raises `LoadError` if the response breaks off."""


@dataclass(frozen=True)
class Hello:
    """Printed once by a worker after its imports."""

    pid: int
    machine: Machine


@dataclass(frozen=True)
class Lease:
    """Memory that a session may use beyond its reservation.

    Requests can arrive late and out of order; the lease with the highest serial is in force.
    """

    serial: int = 0
    """Counts all leases of a daemon."""
    allowed: int = 0
    """Size in bytes."""

    def header(self) -> str:
        """The value of `LEASE_HEADER`."""
        return f"{self.serial} {self.allowed}"

    @classmethod
    def parse(cls, header: str | None) -> "Lease":
        """Parse a header; nothing is leased if there is none."""
        serial, _, allowed = (header or "0 0").partition(" ")
        return cls(int(serial), int(allowed))


NO_LEASE = Lease()


@dataclass(frozen=True)
class Recall:
    """Lower the leases of sessions, by name."""

    leases: dict[str, Lease]


@dataclass(frozen=True)
class Recalled:
    """The response to `Recall`, after kept prompts were reduced to the lowered leases."""

    in_use: dict[str, int]
    """Bytes that running requests use beyond the reservation, by session; no new ones start."""
    live_bytes: int = 0
    """Bytes that the process uses now, without kept prompts."""


@dataclass(frozen=True)
class SeeShapes:
    """Build a model without reading its weights, and report its shapes."""

    path: str
    embedder: Embedder | None = None


@dataclass(frozen=True)
class LoadWeights:
    """Read a checkpoint. A worker does this only once."""

    path: str
    embedder: Embedder | None = None
    """Configuration for embedding texts; None: it generates."""
    reranker: Reranker | None = None
    """Configuration for reranking documents, if it is a reranker."""
    together: tuple[str, ...] = ()
    """Earlier values of `SessionOpened.together` for the same files."""


class WeightsRead(msgspec.Struct, frozen=True, tag=True):
    """Progress of reading the weights, in bytes."""

    bytes_read: int
    bytes_total: int


class WeightsLoaded(msgspec.Struct, frozen=True, tag=True):
    """Result of `LoadWeights`. Times count from the arrival of the request."""

    phases: dict[str, Phase]
    weights_bytes: int


@dataclass(frozen=True)
class Draft:
    """A draft model for a session."""

    path: str
    fingerprint: str
    """Fingerprint of its files."""
    weights_bytes: int
    session_bytes: int
    """Memory reserved for its KV cache and prefill."""
    most_tokens: int
    """Tokens that its KV cache has memory for."""


@dataclass(frozen=True)
class OpenSession:
    """Open a session with these settings. `experts_key` is the path to edit in config.json."""

    config: EffectiveSettings
    experts_key: tuple[str, ...] = ()
    shapes: Shapes = field(default_factory=lambda: Shapes(0))
    session_bytes: int = 0
    """Memory reserved for its KV cache and prefill."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Values for keys that requests omit, under OpenAI's names."""
    adapter: Adapter | None = None
    """Applied to the weights for this session only."""
    prompts: PromptStore | None = None
    """Location of its prompts on disk; None: none are kept."""
    prompt_lookup: bool = True
    """Draft tokens by copying from the text."""
    draft: Draft | None = None


@dataclass(frozen=True)
class SessionOpened:
    """Observations made while the session generated its first token."""

    observed: EffectiveSettings
    unused: tuple[str, ...]
    """Settings that do not apply to the model, such as those of an attention that it lacks."""
    phases: dict[str, Phase]
    memory_bytes: int
    """MLX's active memory for the session alone, after its first token."""
    warnings: tuple[SettingWarning, ...] = ()
    """Properties of the model that change how requests are served; shown in the record's status."""
    unused_defaults: tuple[str, ...] = ()
    """Keys of defaults that no request to this model supports; `warnings` give the reasons."""
    together: tuple[str, ...] = ()
    """The session's compute settings, if the trial has shown that its requests can share a batch;
    only the worker knows how to read it."""


FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of `FirstTokens`; one more bucket holds longer times."""


@dataclass(frozen=True)
class FirstTokens:
    """Histogram of the time to first token, in seconds."""

    counts: tuple[int, ...] = (0,) * (len(FIRST_TOKEN_SECONDS) + 1)
    """Requests per bucket of `FIRST_TOKEN_SECONDS`, then the longer ones."""
    seconds: float = 0.0
    """Sum over all requests."""

    def with_one(self, seconds: float) -> "FirstTokens":
        """The histogram with one more request."""
        bucket = bisect_left(FIRST_TOKEN_SECONDS, seconds)
        counts = tuple(n + (i == bucket) for i, n in enumerate(self.counts))
        return FirstTokens(counts, self.seconds + seconds)

    def plus(self, other: "FirstTokens") -> "FirstTokens":
        """The sum of two histograms."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return FirstTokens(counts, self.seconds + other.seconds)

    def latest(self, other: "FirstTokens") -> "FirstTokens":
        """The later of two states of the same histogram."""
        return max(self, other, key=lambda one: sum(one.counts))


@dataclass(frozen=True)
class Speculated:
    """Counts of speculative decoding."""

    drafted: int = 0
    """Tokens drafted and checked."""
    accepted: int = 0
    """Drafts that became part of an answer."""
    seconds: float = 0.0
    """Time of the passes that checked drafts, including their making."""
    replaced_seconds: float = 0.0
    """Time that their tokens would have taken one by one, as last measured."""

    def plus(self, other: "Speculated") -> "Speculated":
        """The sum of two counts."""
        return Speculated(
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.seconds + other.seconds,
            self.replaced_seconds + other.replaced_seconds,
        )

    def latest(self, other: "Speculated") -> "Speculated":
        """The later of two states of the same counts."""
        return max(self, other, key=lambda one: one.drafted)


@dataclass(frozen=True)
class Usage:
    """Usage by clients' requests since the session was opened."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_tokens: FirstTokens = FirstTokens()
    cached_tokens: int = 0
    """Prompt tokens found in a kept KV cache, in memory or on disk."""
    disk_tokens: int = 0
    """Those of them that were found on disk."""
    speculated: Speculated = Speculated()


@dataclass(frozen=True)
class Activity:
    """The KV cache of a session, in bytes."""

    kv_bytes: int = 0
    """Reserved for running requests."""
    kept_bytes: int = 0
    """Kept from finished requests, released when the memory is needed."""


@dataclass(frozen=True)
class Pulse:
    """State of a worker's MLX thread."""

    steps: int
    """Units of work finished: jobs, steps of batches, pieces of weights."""
    busy: bool
    """True if it has work to do."""
    allowance: float = 0.0
    """Seconds that the current step may take beyond a probe interval."""
    usage: dict[str, Usage] = field(default_factory=dict)
    """Usage of each open session, by name."""
    memory_bytes: int = 0
    """Bytes that the process uses now."""
    kept_bytes: int = 0
    """Part of it: KV caches of finished requests, released when the memory is needed."""
    activity: dict[str, Activity] = field(default_factory=dict)
    """KV cache of each open session, by name."""


class WorkerFailure(msgspec.Struct, frozen=True, tag=True):
    """Failure of a request to a worker. Permanent: the same files will fail again."""

    message: str
    permanent: bool = False

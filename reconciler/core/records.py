"""What is wanted and what is so: the frozen values that every room shares."""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Literal

HTTP = "http"
"""The owner of records that came by HTTP; any other owner is a manifest source."""

ConditionType = Literal["Ready", "Progressing", "Stalled"]
ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Asked:
    """Settings as asked for. None: no opinion, so the default is in force."""

    context_length: int | None = None
    eval_batch_size: int | None = None
    flash_attention: bool | None = None
    num_experts: int | None = None
    offload_kv_cache_to_gpu: bool | None = None

    def sent(self) -> dict[str, int | bool]:
        """The keys that were given a value."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {key: value for key, value in pairs if value is not None}


SETTINGS = tuple(f.name for f in fields(Asked))


@dataclass(frozen=True)
class Config:
    """The settings in force.

    context_length and eval_batch_size in tokens; num_experts active per token, 0 if dense.
    """

    context_length: int
    eval_batch_size: int
    flash_attention: bool
    num_experts: int
    offload_kv_cache_to_gpu: bool


@dataclass(frozen=True)
class SettingWarning:
    """A setting that was asked for and is not in force, and why."""

    key: str
    asked: int | bool
    reason: str


@dataclass(frozen=True)
class LoadSpec:
    """What a record wants loaded; the same keys as a request and a manifest's `spec`."""

    model: str
    config: Asked = Asked()
    suspend: bool = False
    """Keep the record, not the instance."""


@dataclass(frozen=True)
class Record:
    """One desired instance. Its identity is the name; file and line are provenance only."""

    name: str
    owner: str
    spec: LoadSpec
    created_at: datetime
    generation: int = 1
    file: str | None = None
    line: int | None = None
    provisional: bool = False
    last_good: LoadSpec | None = None

    @property
    def place(self) -> str:
        """Where it was declared, for messages."""
        return f"{self.file}:{self.line}" if self.file else self.owner

    def with_spec(self, spec: LoadSpec) -> "Record":
        """The record wanting `spec`: a generation further if that is a change."""
        if spec == self.spec:
            return self
        return replace(self, spec=spec, generation=self.generation + 1)


@dataclass(frozen=True)
class LoadRequest:
    """A load request from the wire. `resets` are the keys sent as null: back to the default."""

    model: str
    config: Asked = Asked()
    resets: frozenset[str] = frozenset()
    instance_id: str | None = None


@dataclass(frozen=True)
class Phase:
    """One part of a load: seconds from the start of the action, and its length. May overlap."""

    start: float
    duration: float


@dataclass(frozen=True)
class Instance:
    """A loaded model that can answer: what was asked for when it was loaded, and what it is."""

    name: str
    spec: LoadSpec
    checkpoint: str
    config: Config
    weights_bytes: int
    """Of the whole checkpoint; instances over one checkpoint share them."""
    session_bytes: int
    """Reserved for this instance's KV cache."""
    worker_pid: int = 0
    """The process that holds it."""


@dataclass(frozen=True)
class LoadReport:
    """What the engine did and observed."""

    config: Config
    load_time_seconds: float
    phases: dict[str, Phase]
    memory_bytes: int


@dataclass(frozen=True)
class Condition:
    """One aspect of a record's state, in the shape of Kubernetes conditions."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    last_transition_time: datetime


@dataclass(frozen=True)
class Status:
    """What is so. `observed_generation` is the newest generation that was ever in force."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    config: Config | None = None
    load_time_seconds: float | None = None
    queued_seconds: float | None = None
    load_phases: dict[str, Phase] = field(default_factory=dict)
    memory_bytes: int | None = None
    warnings: tuple[SettingWarning, ...] = ()
    checkpoint: str | None = None
    worker_pid: int | None = None
    restarts: int = 0
    """How often its worker died, ever."""

    def condition(self, type_: ConditionType) -> Condition | None:
        """The condition of that type, if it was ever set."""
        return next((c for c in self.conditions if c.type == type_), None)

    @property
    def ready(self) -> bool:
        """Whether `Ready` is true."""
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"

"""What is wanted and what is so: the frozen values that every room shares."""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Literal

from reconciler.core.defaults import NO_DEFAULTS, Default, Defaults
from reconciler.core.selector import Selector

HTTP = "http"
"""The owner of records that came by HTTP; any other owner is a manifest source."""

ConditionType = Literal["Ready", "Progressing", "Stalled"]
ConditionStatus = Literal["True", "False", "Unknown"]
UpdateStrategy = Literal["auto", "load-first", "unload-first"]
Download = Literal["never", "if-missing"]
ModelType = Literal["llm", "embedding"]


@dataclass(frozen=True)
class RequestedSettings:
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


SETTINGS = tuple(f.name for f in fields(RequestedSettings))


@dataclass(frozen=True)
class EffectiveSettings:
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
    """A setting that is not what somebody asked for, and why. None: the default was asked for."""

    key: str
    asked: int | float | bool | str | None
    reason: str


@dataclass(frozen=True)
class ModelRef:
    """A model as it is asked for, before anybody looked for it on disk."""

    model: str
    revision: str | None = None
    """A commit, branch or tag in the Hugging Face cache; None: whatever is there."""
    adapter: str | None = None
    """The LoRA adapter that goes on it: an identifier, or an absolute path."""

    @property
    def base(self) -> "ModelRef":
        """The model without the adapter."""
        return replace(self, adapter=None)


@dataclass(frozen=True)
class LoadSpec:
    """What a record wants loaded; the same keys as a request and a manifest's `spec`."""

    model: str
    config: RequestedSettings = RequestedSettings()
    defaults: Defaults = NO_DEFAULTS
    """For requests that leave these keys out."""
    adapter: str | None = None
    """A LoRA adapter over the model's weights: an identifier, or an absolute path."""
    revision: str | None = None
    suspend: bool = False
    """Keep the record, not the instance."""
    priority: int = 0
    """The higher loads first."""
    update_strategy: UpdateStrategy = "auto"
    idle_ttl_seconds: int | None = None
    """Unload after this long without a request, and load again at the next; None: never."""
    download: Download = "never"
    """Whether the model is fetched from the hub where it is not on disk."""
    node_selector: Selector = ()
    """Which nodes it is meant for; empty: all."""
    aliases: tuple[str, ...] = ()
    """Other names under which it answers requests."""

    @property
    def ref(self) -> ModelRef:
        """The model to look for."""
        return ModelRef(self.model, self.revision, self.adapter)

    def loads_like(self, other: "LoadSpec") -> bool:
        """Whether both ask for the same instance, however it is come by."""
        mine, theirs = (self.ref, self.config), (other.ref, other.config)
        return mine == theirs and self.defaults == other.defaults


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
    """A load request from the wire.

    `resets` are the keys sent as null: back to the default. `adapter` and `defaults.KEY` may be
    among them.
    """

    model: str
    config: RequestedSettings = RequestedSettings()
    resets: frozenset[str] = frozenset()
    instance_id: str | None = None
    idle_ttl_seconds: int | None = None
    defaults: Defaults = NO_DEFAULTS
    adapter: str | None = None
    aliases: tuple[str, ...] | None = None
    """None: no opinion."""

    @property
    def ref(self) -> ModelRef:
        """The model to look for."""
        return ModelRef(self.model, adapter=self.adapter)

    @property
    def name(self) -> str:
        """The record that it creates where none agrees with it."""
        if self.instance_id is not None or self.adapter is None:
            return self.instance_id or self.model
        return f"{self.model}:{self.adapter.rstrip('/').rpartition('/')[2]}"


@dataclass(frozen=True)
class Phase:
    """One part of a load: seconds from the start of the action, and its length. May overlap."""

    start: float
    duration: float


@dataclass(frozen=True)
class Progress:
    """How far a load is: a phase has begun, or has read so many bytes of the weights."""

    phase: str
    bytes_read: int | None = None
    bytes_total: int | None = None


@dataclass(frozen=True)
class LoadReport:
    """How an instance came to be."""

    load_time_seconds: float
    """From the start of the action to the moment it could answer."""
    phases: dict[str, Phase]
    memory_bytes: int
    """Weights, shared ones too, and what this instance added."""
    warnings: tuple[SettingWarning, ...] = ()


@dataclass(frozen=True)
class Instance:
    """A loaded model that can answer: what was asked for when it was loaded, and what it is."""

    name: str
    spec: LoadSpec
    checkpoint: str
    config: EffectiveSettings
    weights_bytes: int
    """Of the whole checkpoint; instances over one checkpoint share them."""
    session_bytes: int
    """Held for this instance's KV cache and for reading prompts."""
    process_bytes: int = 0
    """Of the worker, besides what MLX allocates."""
    worker_pid: int = 0
    """The process that holds it."""
    revision: str = ""
    """Of the checkpoint, when its weights were read."""
    report: LoadReport | None = None
    defaults: tuple[Default, ...] = ()
    """In force for requests."""
    adapter: str | None = None
    """Directory of the adapter."""
    session: str = ""
    """Names it among all that were ever loaded by this daemon."""
    type: ModelType = "llm"
    """`embedding`: it makes vectors of texts, and generates nothing."""

    @property
    def shared_bytes(self) -> int:
        """Held once for all instances of the checkpoint."""
        return self.weights_bytes + self.process_bytes


Outcome = Literal["Pending", "Loaded", "Failed", "Suspended", "Superseded", "Removed"]


@dataclass(frozen=True)
class Generation:
    """One spec in the history of a record, and its outcome."""

    name: str
    created_at: datetime
    """Of the record."""
    generation: int
    owner: str
    file: str | None
    line: int | None
    spec: LoadSpec
    wanted_at: datetime
    outcome: Outcome
    """Superseded and Removed: before anything else could become of it."""
    message: str
    settled_at: datetime | None
    load_time_seconds: float | None
    ended_at: datetime | None
    """When the next generation came, or the record went."""


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
    config: EffectiveSettings | None = None
    defaults: tuple[Default, ...] = ()
    """In force for requests that leave the key out."""
    load_time_seconds: float | None = None
    queued_seconds: float | None = None
    load_phases: dict[str, Phase] = field(default_factory=dict)
    loaded_by: str | None = None
    """The kind of action that put the present settings in force."""
    loaded_at: datetime | None = None
    """When it was done."""
    memory_bytes: int | None = None
    warnings: tuple[SettingWarning, ...] = ()
    checkpoint: str | None = None
    adapter: str | None = None
    """Directory of the adapter in force."""
    revision: str | None = None
    """Of the weights in memory."""
    revision_on_disk: str | None = None
    """Of what the model's name stands for now."""
    worker_pid: int | None = None
    type: ModelType | None = None
    """Of the model that is loaded."""
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

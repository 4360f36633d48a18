"""Desired and actual state: the frozen values that all packages share."""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Literal

from reconciler.core.defaults import NO_DEFAULTS, Default, Defaults
from reconciler.core.selector import Selector

HTTP = "http"
"""Owner of records created over HTTP; any other owner is a manifest source."""

ConditionType = Literal["Ready", "Progressing", "Stalled"]
ConditionStatus = Literal["True", "False", "Unknown"]
UpdateStrategy = Literal["auto", "load-first", "unload-first"]
Download = Literal["never", "if-missing"]
ModelType = Literal["llm", "embedding"]


@dataclass(frozen=True)
class RequestedSettings:
    """Requested settings. None: not requested, so the default applies."""

    context_length: int | None = None
    eval_batch_size: int | None = None
    flash_attention: bool | None = None
    num_experts: int | None = None
    offload_kv_cache_to_gpu: bool | None = None
    kv_cache_bits: int | None = None

    def sent(self) -> dict[str, int | bool]:
        """Keys that have a value."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {key: value for key, value in pairs if value is not None}


SETTINGS = tuple(f.name for f in fields(RequestedSettings))


@dataclass(frozen=True)
class EffectiveSettings:
    """Settings in force.

    `context_length` and `eval_batch_size` in tokens; `num_experts` active per token, 0 if dense;
    `kv_cache_bits` per value, None if the KV cache is not quantised.
    """

    context_length: int
    eval_batch_size: int
    flash_attention: bool
    num_experts: int
    offload_kv_cache_to_gpu: bool
    kv_cache_bits: int | None = None


@dataclass(frozen=True)
class SettingWarning:
    """A setting that differs from the request, and the reason.

    `asked` is None if the default was requested.
    """

    key: str
    asked: int | float | bool | str | None
    reason: str


@dataclass(frozen=True)
class ModelRef:
    """A model as requested, before it is resolved on disk."""

    model: str
    revision: str | None = None
    """Commit, branch or tag in the Hugging Face cache; None: any that is there."""
    adapter: str | None = None
    """LoRA adapter to apply: an identifier, or an absolute path."""
    draft: str | None = None
    """Identifier of the draft model."""

    @property
    def base(self) -> "ModelRef":
        """The model without the adapter and the draft model."""
        return replace(self, adapter=None, draft=None)


@dataclass(frozen=True)
class LoadSpec:
    """Desired state of a record; the same keys as a request and a manifest's `spec`."""

    model: str
    config: RequestedSettings = RequestedSettings()
    defaults: Defaults = NO_DEFAULTS
    """Values for requests that omit these keys."""
    adapter: str | None = None
    """LoRA adapter to apply to the weights: an identifier, or an absolute path."""
    revision: str | None = None
    suspend: bool = False
    """Keep the record, but unload the instance."""
    priority: int = 0
    """Higher priorities load first."""
    update_strategy: UpdateStrategy = "auto"
    idle_ttl_seconds: int | None = None
    """Unload after this time without a request, and reload at the next one; None: never."""
    download: Download = "never"
    """`if-missing`: download the model from the hub if it is not on disk."""
    node_selector: Selector = ()
    """Nodes that the record is meant for; empty: all."""
    aliases: tuple[str, ...] = ()
    """Other names under which it serves requests."""
    warm: bool = False
    """Keep the model's files in the page cache while no instance is loaded."""
    prompt_lookup: bool = True
    """Draft tokens of requests that run alone by copying from their text."""
    draft_model: str | None = None
    """Identifier of a model that drafts tokens of requests that run alone."""

    @property
    def ref(self) -> ModelRef:
        """The model to resolve."""
        return ModelRef(self.model, self.revision, self.adapter, self.draft_model)

    def loads_like(self, other: "LoadSpec") -> bool:
        """True if both describe the same instance: the same model, settings and defaults."""
        mine = (self.ref, self.config, self.defaults, self.prompt_lookup)
        return mine == (other.ref, other.config, other.defaults, other.prompt_lookup)


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
        """File and line that declare it, else its owner; for messages."""
        return f"{self.file}:{self.line}" if self.file else self.owner

    def with_spec(self, spec: LoadSpec) -> "Record":
        """The record with `spec`; a changed spec increments the generation."""
        if spec == self.spec:
            return self
        return replace(self, spec=spec, generation=self.generation + 1)


@dataclass(frozen=True)
class LoadRequest:
    """A load request from a client.

    `resets` holds the keys sent as null, which return to their default. It may include `adapter`,
    `prompt_lookup`, `draft_model` and `defaults.KEY`.
    """

    model: str
    config: RequestedSettings = RequestedSettings()
    resets: frozenset[str] = frozenset()
    instance_id: str | None = None
    idle_ttl_seconds: int | None = None
    defaults: Defaults = NO_DEFAULTS
    adapter: str | None = None
    aliases: tuple[str, ...] | None = None
    """Other names of the record; None: not sent."""
    warm: bool | None = None
    """None: not sent."""
    prompt_lookup: bool | None = None
    draft_model: str | None = None

    @property
    def ref(self) -> ModelRef:
        """The model to resolve."""
        return ModelRef(self.model, adapter=self.adapter, draft=self.draft_model)

    @property
    def name(self) -> str:
        """Name of the record to create if no record agrees with the request."""
        if self.instance_id is not None or self.adapter is None:
            return self.instance_id or self.model
        return f"{self.model}:{self.adapter.rstrip('/').rpartition('/')[2]}"


@dataclass(frozen=True)
class Phase:
    """One phase of a load: start and duration in seconds, from the start of the action.

    Phases may overlap.
    """

    start: float
    duration: float


@dataclass(frozen=True)
class Progress:
    """Progress of a load: a phase that began, or the bytes of weights it has read."""

    phase: str
    bytes_read: int | None = None
    bytes_total: int | None = None


@dataclass(frozen=True)
class LoadReport:
    """Report of the load that created an instance."""

    load_time_seconds: float
    """Time from the start of the action until the instance was ready."""
    phases: dict[str, Phase]
    memory_bytes: int
    """Weights, including shared ones, plus what this instance added."""
    warnings: tuple[SettingWarning, ...] = ()


@dataclass(frozen=True)
class Instance:
    """A loaded model that serves requests: the spec it was loaded with, and its actual state."""

    name: str
    spec: LoadSpec
    checkpoint: str
    config: EffectiveSettings
    weights_bytes: int
    """Weights of the whole checkpoint; all its instances share them."""
    session_bytes: int
    """Memory reserved for this instance's KV cache and prefill."""
    process_bytes: int = 0
    """Memory of the worker besides MLX's allocations."""
    worker_pid: int = 0
    """Process that holds it."""
    revision: str = ""
    """Revision of the checkpoint when its weights were read."""
    report: LoadReport | None = None
    defaults: tuple[Default, ...] = ()
    """Defaults in force for requests."""
    adapter: str | None = None
    """Directory of the adapter."""
    session: str = ""
    """Unique among all instances that this daemon has loaded."""
    type: ModelType = "llm"
    """`embedding`: it embeds texts and does not generate."""
    draft_model: str | None = None
    """Directory of the draft model."""

    @property
    def directories(self) -> tuple[str, ...]:
        """Directories that it was loaded from: of the model, its adapter and its draft model."""
        named = (self.checkpoint, self.adapter, self.draft_model)
        return tuple(path for path in named if path is not None)

    @property
    def shared_bytes(self) -> int:
        """Memory held once for all instances of the checkpoint."""
        return self.weights_bytes + self.process_bytes


Outcome = Literal["Pending", "Loaded", "Failed", "Suspended", "Superseded", "Removed"]


@dataclass(frozen=True)
class Generation:
    """One spec in the history of a record, and its outcome."""

    name: str
    created_at: datetime
    """Creation time of the record."""
    generation: int
    owner: str
    file: str | None
    line: int | None
    spec: LoadSpec
    wanted_at: datetime
    outcome: Outcome
    """Superseded and Removed: it had no other outcome before."""
    message: str
    settled_at: datetime | None
    load_time_seconds: float | None
    ended_at: datetime | None
    """Time at which the next generation began or the record was removed."""


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
    """Actual state. `observed_generation` is the newest generation that was ever in force."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    config: EffectiveSettings | None = None
    defaults: tuple[Default, ...] = ()
    """Defaults in force for requests that omit the key."""
    load_time_seconds: float | None = None
    queued_seconds: float | None = None
    load_phases: dict[str, Phase] = field(default_factory=dict)
    loaded_by: str | None = None
    """Kind of action that applied the current settings."""
    loaded_at: datetime | None = None
    """Time at which that action completed."""
    memory_bytes: int | None = None
    warnings: tuple[SettingWarning, ...] = ()
    checkpoint: str | None = None
    adapter: str | None = None
    """Directory of the adapter in force."""
    draft_model: str | None = None
    """Directory of the draft model in use."""
    revision: str | None = None
    """Revision of the weights in memory."""
    revision_on_disk: str | None = None
    """Revision that the model's name resolves to now."""
    worker_pid: int | None = None
    type: ModelType | None = None
    """Type of the loaded model."""
    restarts: int = 0
    """Total number of deaths of its worker."""

    def condition(self, type_: ConditionType) -> Condition | None:
        """The condition of that type, if it was ever set."""
        return next((c for c in self.conditions if c.type == type_), None)

    @property
    def ready(self) -> bool:
        """True if the condition `Ready` is true."""
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"

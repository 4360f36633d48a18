"""Facts about checkpoints and the machine, as input of decisions."""

from dataclasses import dataclass

from reconciler.core.chat_template import Reasoning
from reconciler.core.defaults import NO_DEFAULTS, Defaults
from reconciler.core.embedder import Embedder
from reconciler.core.records import ModelType, SettingWarning
from reconciler.core.reranker import Reranker


@dataclass(frozen=True)
class Shapes:
    """Memory shapes of a model, measured on a lazily built one. Sizes in bytes."""

    growing: int
    """KV cache per token of a request, over all layers with full attention, not quantised."""
    windows: tuple[tuple[int, int], ...] = ()
    """KV cache of each sliding-window layer: window in tokens, and size per token."""
    fixed: int = 0
    """Size per request regardless of its length, such as a recurrent state."""
    largest_layer: int = 0
    """Part of `growing` for the largest layer."""
    grows_by: int = 0
    """Allocation step of a KV cache, in tokens."""
    heads: int = 0
    """Number of attention heads; each has its own scores per query."""
    head_width: int = 0
    """Values in a query of one head."""
    score_bytes: int = 0
    """Size of a score, and of a value in the KV cache."""
    own_attention: bool = False
    """True if the model computes attention itself, in one piece, ignoring `flash_attention`."""
    bias: bool = False
    """True if an array as large as the scores is added to them."""
    hidden: int = 0
    """Activations passed between layers, per token."""
    widest: int = 0
    """Largest output within a layer, per token."""
    nodes: int = 0
    """Number of nodes that each token adds to MLX's graph of a call, in models that process tokens
    one by one."""
    weights: int = 0
    """Weights once loaded: mlx_lm unpacks some formats (fp8) and drops unused tensors. 0:
    unknown."""
    unquantizable_kv: str = ""
    """Reason why the KV cache cannot be quantised; empty if it can, or if there is none."""


@dataclass(frozen=True)
class Quantization:
    """Quantization of weights."""

    name: str
    """Common name: `4bit`, `4.5bit` for mixed bits, `mxfp4`, `nvfp4`, ..."""
    bits: float
    """Bits per packed weight, without scales; the mean if layers differ."""


@dataclass(frozen=True)
class GenerationConfig:
    """Request defaults from generation_config.json."""

    defaults: Defaults = NO_DEFAULTS
    warnings: tuple[SettingWarning, ...] = ()
    """Values in it that are ignored, with the reason."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in the format of mlx_lm.lora."""

    path: str
    """Absolute path without symbolic links."""
    fingerprint: str
    """Hash over file names, sizes and modification times."""
    weights_bytes: int
    base: str | None = None
    """The model that it was trained on, if its config names one."""


@dataclass(frozen=True)
class Checkpoint:
    """Facts from config.json and the safetensors headers. Sizes in bytes, lengths in tokens."""

    path: str
    """Absolute path without symbolic links: the identity of a checkpoint on this machine."""
    fingerprint: str
    """Hash over file names, sizes and modification times."""
    model_type: str
    weights_bytes: int
    """Sum of the tensors' `data_offsets`; equals MLX's active memory after the load."""
    max_context: int | None = None
    """Maximum context; None: the checkpoint states none."""
    kv_bytes_per_token: int = 0
    """Upper bound: full attention in every layer, keys and values in `kv_dtype` size."""
    shapes: Shapes | None = None
    """Measured shapes; None: the model has not been built yet, or could not be."""
    tokenizer_bytes: int = 0
    """Size of tokenizer.json."""
    experts_total: int = 0
    """0: a dense model."""
    experts_per_token: int = 0
    experts_key: tuple[str, ...] = ()
    """Path in config.json of the number of experts per token."""
    experts_least: int = 1
    experts_most: int = 0
    """Maximum that the router can choose; 0: all experts."""
    quantization: Quantization | None = None
    parameters: int = 0
    """Number of weights, without quantization scales."""
    tool_use: bool = False
    """True if one of its chat templates takes tools."""
    reasoning: Reasoning | None = None
    """Options from its first chat template that supports reasoning."""
    modified: float = 0.0
    """Latest modification time of its files, in seconds since 1970."""
    key: str = ""
    """Identifier in the catalog."""
    commit: str | None = None
    """Commit of its repository, if it is in the Hugging Face cache."""
    generation: GenerationConfig = GenerationConfig()
    embedder: Embedder | None = None
    """Configuration for embedding texts; None: it generates."""
    reranker: Reranker | None = None
    """Configuration for reranking documents, if it is a reranker."""
    adapter: Adapter | None = None
    draft: "Checkpoint | None" = None
    """The draft model of an instance."""

    @property
    def footprint(self) -> Shapes:
        """Measured shapes, else the upper bound from config.json."""
        return self.shapes or Shapes(self.kv_bytes_per_token)

    @property
    def type(self) -> ModelType:
        """Type of model, in LM Studio's terms."""
        return "llm" if self.embedder is None else "embedding"

    @property
    def paths(self) -> tuple[str, ...]:
        """Directories that a load reads: of the model, its adapter and its draft model."""
        others = [one.path for one in (self.adapter, self.draft) if one is not None]
        return (self.path, *others)

    @property
    def files(self) -> str:
        """Fingerprint of all files that a load reads, including those of adapter and draft."""
        return self._with_others(self.fingerprint)

    @property
    def base_revision(self) -> str:
        """Identifier of the state of the model's own files."""
        return self.commit or self.fingerprint

    @property
    def revision(self) -> str:
        """Identifier of the state of the model, its adapter and its draft model."""
        return self._with_others(self.base_revision)

    def _with_others(self, base: str) -> str:
        others = [one.fingerprint for one in (self.adapter, self.draft) if one is not None]
        return "+".join([base, *others])


@dataclass(frozen=True)
class Wired:
    """Memory that workers wire, so that it is not paged out."""

    policy: str = "off"
    """Requested policy: `off`, `recommended`, or a size."""
    limit_bytes: int = 0
    """Limit in force in each worker; 0: none."""
    problem: str | None = None
    """Error that prevents applying the policy."""


@dataclass(frozen=True)
class Machine:
    """Facts reported by MLX and the operating system, never guessed."""

    device: str
    """MLX's default device, `gpu` or `cpu`."""
    device_name: str
    memory_budget: int
    """Bytes that all models together may use."""
    mlx_version: str
    process_bytes: int = 0
    """Memory of a worker after its imports, without a model; 0: unknown."""
    wired: Wired = Wired()

    @property
    def has_gpu(self) -> bool:
        """True if MLX runs on a GPU."""
        return self.device == "gpu"

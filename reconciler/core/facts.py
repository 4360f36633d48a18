"""Facts that decisions rest on: about a checkpoint's files and about the machine."""

from dataclasses import dataclass

from reconciler.core.chat_template import Reasoning
from reconciler.core.defaults import NO_DEFAULTS, Defaults
from reconciler.core.embedder import Embedder
from reconciler.core.records import ModelType, SettingWarning
from reconciler.core.reranker import Reranker


@dataclass(frozen=True)
class Shapes:
    """What a model works with in memory, as a lazily built one shows. Sizes in bytes."""

    growing: int
    """KV cache for each token of a request, of all layers that attend to everything."""
    windows: tuple[tuple[int, int], ...] = ()
    """Of layers that attend to the last tokens: how many those are, and the size of each."""
    fixed: int = 0
    """What a request keeps however long it is, such as a recurrent state."""
    largest_layer: int = 0
    """The part of `growing` that the largest layer has."""
    grows_by: int = 0
    """Tokens for which a KV cache takes memory at a time."""
    heads: int = 0
    """Of attention, where each query has scores of its own."""
    head_width: int = 0
    """Values in a query of a head."""
    score_bytes: int = 0
    own_attention: bool = False
    """Computed by the model itself, in one piece, whatever `flash_attention` says."""
    bias: bool = False
    """An array is added to the scores, as large as they are."""
    hidden: int = 0
    """What goes from layer to layer for each token."""
    widest: int = 0
    """The largest output of a layer's parts for each token."""
    nodes: int = 0
    """By which MLX's graph of a call grows with each token, where a model goes through them one
    by one; a number."""
    weights: int = 0
    """Once loaded: mlx_lm unpacks some formats (fp8) and leaves out what it has no use for. 0: not
    known."""


@dataclass(frozen=True)
class Quantization:
    """How weights are packed."""

    name: str
    """The name people know it by: `4bit`, `4.5bit` for mixed bits, `mxfp4`, `nvfp4`, ..."""
    bits: float
    """Bits of a packed weight, without scales; the mean where layers differ."""


@dataclass(frozen=True)
class GenerationConfig:
    """What generation_config.json says about requests."""

    defaults: Defaults = NO_DEFAULTS
    warnings: tuple[SettingWarning, ...] = ()
    """Values in it that are ignored, and why."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as mlx_lm.lora writes it."""

    path: str
    """Absolute and free of links."""
    fingerprint: str
    """Of its files' names, sizes and modification times."""
    weights_bytes: int
    base: str | None = None
    """The model that it was trained on, if its config names one."""


@dataclass(frozen=True)
class Checkpoint:
    """What config.json and the safetensors headers say. Sizes in bytes, lengths in tokens."""

    path: str
    """Absolute and free of links: the identity of a checkpoint on this machine."""
    fingerprint: str
    """Of the files' names, sizes and modification times: changes when they do."""
    model_type: str
    weights_bytes: int
    """Sum of the tensors' `data_offsets`; equals MLX's active memory after the load."""
    max_context: int | None = None
    """None: the checkpoint names no maximum."""
    kv_bytes_per_token: int = 0
    """An upper bound: every layer with full attention, keys and values in `kv_dtype` size."""
    shapes: Shapes | None = None
    """None: the model was not built yet, or could not be."""
    tokenizer_bytes: int = 0
    """Of tokenizer.json."""
    experts_total: int = 0
    """0: a dense model."""
    experts_per_token: int = 0
    experts_key: tuple[str, ...] = ()
    """Path in config.json of the number of experts per token."""
    experts_least: int = 1
    experts_most: int = 0
    """What the router can choose; 0: all experts."""
    quantization: Quantization | None = None
    parameters: int = 0
    """Weights in number, without the scales of quantised ones."""
    tool_use: bool = False
    """True if one of its chat templates takes tools."""
    reasoning: Reasoning | None = None
    """Of its first chat template that has to do with reasoning."""
    modified: float = 0.0
    """When a file of it was last changed, in seconds since 1970."""
    key: str = ""
    """Identifier in the catalog."""
    commit: str | None = None
    """Where it lies in the Hugging Face cache: which commit of its repository it is."""
    generation: GenerationConfig = GenerationConfig()
    embedder: Embedder | None = None
    """None: it generates."""
    reranker: Reranker | None = None
    """How it judges documents, if it is made for that."""
    adapter: Adapter | None = None

    @property
    def footprint(self) -> Shapes:
        """The shapes that were seen, else the bound that config.json gives."""
        return self.shapes or Shapes(self.kv_bytes_per_token)

    @property
    def type(self) -> ModelType:
        """What it is for, in LM Studio's words."""
        return "llm" if self.embedder is None else "embedding"

    @property
    def files(self) -> str:
        """Fingerprint of all files that a load reads, the adapter's too."""
        return self._with_adapter(self.fingerprint)

    @property
    def base_revision(self) -> str:
        """What tells this state of the model's own files from others."""
        return self.commit or self.fingerprint

    @property
    def revision(self) -> str:
        """What tells this state of the model and its adapter from others."""
        return self._with_adapter(self.base_revision)

    def _with_adapter(self, base: str) -> str:
        return base if self.adapter is None else f"{base}+{self.adapter.fingerprint}"


@dataclass(frozen=True)
class Wired:
    """Memory that workers keep from being paged out."""

    policy: str = "off"
    """What was asked for: `off`, `recommended`, or a size."""
    limit_bytes: int = 0
    """In force in each worker; 0: none."""
    problem: str | None = None
    """Why the policy is not in force."""


@dataclass(frozen=True)
class Machine:
    """Facts asked of MLX and the operating system, never guessed."""

    device: str
    """MLX's default device, `gpu` or `cpu`."""
    device_name: str
    memory_budget: int
    """Bytes that all models together may take."""
    mlx_version: str
    process_bytes: int = 0
    """Memory of a worker that has done its imports and holds nothing; 0: not known."""
    wired: Wired = Wired()

    @property
    def has_gpu(self) -> bool:
        """Whether MLX computes on a GPU."""
        return self.device == "gpu"

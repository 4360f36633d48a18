"""Facts that decisions rest on: about a checkpoint's files and about the machine."""

from dataclasses import dataclass


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
    experts_total: int = 0
    """0: a dense model."""
    experts_per_token: int = 0
    experts_key: tuple[str, ...] = ()
    """Path in config.json of the number of experts per token."""
    experts_least: int = 1
    experts_most: int = 0
    """What the router can choose; 0: all experts."""
    quantization_bits: int | None = None
    parameters: int = 0
    """Weights in number, without the scales of quantised ones."""
    tool_use: bool = False
    """Whether its chat template speaks of tools."""
    commit: str | None = None
    """Where it lies in the Hugging Face cache: which commit of its repository it is."""

    @property
    def revision(self) -> str:
        """What tells this state of the model from others."""
        return self.commit or self.fingerprint


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
    wired: Wired = Wired()

    @property
    def has_gpu(self) -> bool:
        """Whether MLX computes on a GPU."""
        return self.device == "gpu"

"""Facts about an embedding model, shared by daemon and worker.

They come from the files that sentence-transformers writes next to the weights (`models.embedder`).
"""

from dataclasses import dataclass, field

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Methods to pool a text's tokens into one vector, in the order in which several are concatenated;
names and order are those of sentence-transformers' module Pooling."""

ACTIVATIONS = ("Identity", "Tanh")
"""Activations of a Dense module, by the name of torch's class."""

QUERY = "query"
"""Name of the prompt for search queries in nearly all checkpoints that have prompts."""


@dataclass(frozen=True)
class Dense:
    """A linear layer after pooling, in its own file."""

    file: str
    """Absolute path; safetensors with `linear.weight` (outputs, inputs) and optionally
    `linear.bias`."""
    inputs: int
    outputs: int
    bias: bool
    activation: str
    """One of `ACTIVATIONS`."""
    weights_bytes: int = 0


@dataclass(frozen=True)
class Embedder:
    """Conversion of a text to a vector."""

    pooling: tuple[str, ...]
    """Methods from `POOLINGS`; the results of several are concatenated."""
    dimensions: int
    """Number of dimensions of a vector."""
    normalized: bool = True
    """True if vectors have unit length."""
    dense: tuple[Dense, ...] = ()
    """Layers between pooling and normalization, in order."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Texts to prepend to the input, by name."""
    default_prompt: str | None = None
    """Name of the prompt for requests that name none."""
    pools_prompt: bool = True
    """True if the tokens of a prompt are pooled with the others."""
    max_tokens: int | None = None
    """Maximum length of a text as published; None: the model's own maximum."""
    lowercase: bool = False
    """True if texts are lower-cased."""
    causal: bool = True
    """True if a token attends only to those before it."""

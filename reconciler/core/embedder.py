"""What makes an embedding model of a checkpoint: facts, which daemon and worker share.

They stand in the files that sentence-transformers writes beside the weights (`models.embedder`).
"""

from dataclasses import dataclass, field

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways to make one vector of a text's tokens, in the order in which several are joined; names and
order are those of sentence-transformers' module Pooling."""

ACTIVATIONS = ("Identity", "Tanh")
"""Of a Dense module, by the name of torch's class."""

QUERY = "query"
"""The prompt of texts that are searched with, in nearly all checkpoints that have prompts."""


@dataclass(frozen=True)
class Dense:
    """A linear layer after pooling, from a file of its own."""

    file: str
    """Absolute path; safetensors with `linear.weight` (outputs, inputs) and perhaps
    `linear.bias`."""
    inputs: int
    outputs: int
    bias: bool
    activation: str
    """One of `ACTIVATIONS`."""
    weights_bytes: int = 0


@dataclass(frozen=True)
class Embedder:
    """How a text becomes a vector."""

    pooling: tuple[str, ...]
    """Of `POOLINGS`; the results of several are joined."""
    dimensions: int
    """Numbers in a vector."""
    normalized: bool = True
    """True if vectors have length 1."""
    dense: tuple[Dense, ...] = ()
    """Between pooling and normalization, in order."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Texts that go before the input, by name."""
    default_prompt: str | None = None
    """Name of the prompt of requests that name none."""
    pools_prompt: bool = True
    """True if the tokens of a prompt are pooled with the others."""
    max_tokens: int | None = None
    """Of a text, as the publisher says; None: what the model takes."""
    lowercase: bool = False
    """True if texts are lower-cased."""
    causal: bool = True
    """True if a token attends to those before it alone."""

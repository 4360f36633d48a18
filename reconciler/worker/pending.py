"""A session's view of a request: its parameters and its progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.worker.likelihood import Likelihood

Emit = Callable[[int, str | None, Any], None]
"""Called for each token with its id, the finish reason ("stop" or "length") of the last one, and
the log-probabilities of the whole vocabulary from which it was sampled."""

Fail = Callable[[Exception], None]


@dataclass(frozen=True)
class Stored:
    """A KV cache that was read from disk."""

    tokens: int
    cache: list[Any]


@dataclass(frozen=True)
class Score:
    """Request for the log-probabilities of a prompt."""

    alternatives: int
    """Number of most likely tokens to report at each position."""
    on_scores: Callable[[list[Likelihood]], None]
    """Called with the likelihoods of all tokens but the first, once the prompt is prefilled."""
    alone: bool = False
    """True if no token is to be generated."""


@dataclass(eq=False)
class Request:
    """One completion: its prompt, parameters, callbacks and progress."""

    prompt: list[int]
    max_tokens: int | None
    """Maximum tokens to generate; None: until the context is full."""
    emit: Emit
    fail: Fail
    sampler: Callable[[Any], Any] | None = None
    processors: Sequence[Any] = ()
    boundaries: tuple[int, ...] = ()
    """Positions in the prompt [tokens] at which later prompts are likely to diverge, ascending; the
    first one is the end of the system turns."""
    ends: tuple[int, ...] | None = None
    """Stop tokens; None: those of the session."""
    read: Callable[[int], None] | None = None
    """Called with the number of prompt tokens prefilled so far, after each step of the prefill."""
    follows: "Request | None" = None
    """Another request with the same prompt, which prefills it for both."""
    leads: bool = False
    """True if other requests follow it."""
    score: "Score | None" = None
    """Handling of the prompt's log-probabilities, if they are requested."""
    kept: bool = True
    """True if its KV cache is saved for prompts with the same prefix."""
    streams: bool = False
    """True if its client receives tokens as they are generated."""
    counted: bool = True
    """True if it belongs to a client and its tokens are counted."""
    asked: float | None = None
    """Arrival of the client's request by `time.monotonic`; None if another `Request` of the same
    client request has it."""
    stored: "Stored | None" = None
    """KV cache of the beginning of its prompt, read from disk; None once it is inserted."""
    disk_tokens: int = 0
    """Prompt tokens whose KV cache was read from disk."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prompt cache; None while the request waits."""
    emitted: int = 0
    """Tokens generated in total."""
    left: int = 0
    """Remaining tokens that it may generate."""
    reserved: int = 0
    """Size of its KV cache reservation [tokens]."""
    unread: int = 0
    """Prompt tokens that are not prefilled yet."""
    known: int = 0
    """Prompt tokens in the cache with which it was inserted."""
    cuts: tuple[int, ...] = ()
    """Positions in the prompt at which its cache is saved, set when it is inserted."""
    uid: int | None = None
    """Its id in the generator, while it is there."""
    generated: list[int] = field(default_factory=list)
    """Tokens generated since it was inserted."""

    @property
    def room(self) -> int:
        """Tokens of its reservation that it has not used yet."""
        return self.reserved - self.length

    @property
    def length(self) -> int:
        """Tokens of the prompt and the completion so far."""
        return len(self.prompt) + len(self.generated)


def unasked(length: int, tokens: int, errors: list[Exception]) -> Request:
    """Create an internal request that is neither counted nor cached."""
    fail = errors.append
    return Request([0] * length, tokens, _ignore, fail, kept=False, counted=False, left=tokens)


def _ignore(_token: int, _end: str | None, _logprobs: Any) -> None:
    """Discard a token."""

"""A request as a session has it: what is to be generated, and how far it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.worker.likelihood import Likelihood

Emit = Callable[[int, str | None, Any], None]
"""Hears each token id, "stop" or "length" at the last one, and the log-probabilities of the
whole vocabulary that it was chosen by."""

Fail = Callable[[Exception], None]


@dataclass(frozen=True)
class Score:
    """A prompt whose log-probabilities are asked for."""

    alternatives: int
    """Likeliest tokens that are named at each place."""
    on_scores: Callable[[list[Likelihood]], None]
    """Called with those of all tokens but the first, once the prompt is read."""
    alone: bool = False
    """True if nothing is to be generated."""


@dataclass(eq=False)
class Request:
    """One completion: the prompt, how it goes on, and who hears of it."""

    prompt: list[int]
    max_tokens: int | None
    """None: until the context is full."""
    emit: Emit
    fail: Fail
    sampler: Callable[[Any], Any] | None = None
    processors: Sequence[Any] = ()
    boundaries: tuple[int, ...] = ()
    """Places in the prompt, in tokens, where later ones are likely to part from it, ascending; the
    first one is the end of the system turns."""
    ends: tuple[int, ...] | None = None
    """Tokens that end it; None: those of the session."""
    read: Callable[[int], None] | None = None
    """Called with the tokens of the prompt that were read so far, after each step of them."""
    follows: "Request | None" = None
    """Another request with the same prompt, which reads it for both."""
    leads: bool = False
    """True if requests follow it."""
    score: "Score | None" = None
    """What is done with the log-probabilities of the prompt, if they are asked for."""
    kept: bool = True
    """Whether its KV cache is kept for prompts that begin alike."""
    counted: bool = True
    """Whether it is a client's, whose tokens are counted."""
    asked: float | None = None
    """When its client's request came, by `time.monotonic`; None: another `Request` of the same one
    says so."""
    cached_tokens: int | None = None
    """Of the prompt, found in a kept KV cache; None: it still waits."""
    emitted: int = 0
    """Tokens that were generated in all."""
    left: int = 0
    """Tokens that it may still generate."""
    reserved: int = 0
    """Tokens of KV cache that it has room for."""
    unread: int = 0
    """Prompt tokens that the generator has not computed yet."""
    known: int = 0
    """Prompt tokens that it was inserted with a cache of."""
    cuts: tuple[int, ...] = ()
    """Places in the prompt at which its cache is kept, since it was inserted."""
    uid: int | None = None
    """Its place in the generator, while it is there."""
    generated: list[int] = field(default_factory=list)
    """Since it took that place."""

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.generated)


def unasked(length: int, tokens: int, errors: list[Exception]) -> Request:
    """A request of the worker's own, which leaves nothing behind."""
    fail = errors.append
    return Request([0] * length, tokens, _ignore, fail, kept=False, counted=False, left=tokens)


def _ignore(_token: int, _end: str | None, _logprobs: Any) -> None:
    """Drop a token."""

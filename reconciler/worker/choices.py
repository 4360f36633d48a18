"""The answers to one request: one for each prompt and choice, generated beside each other.

The first choice of a prompt reads it; the others begin from the cache that it left at its end.
Choice j of a prompt is drawn with `seed + j`, as vLLM does, so that it is the answer that a request
with that seed gets. At temperature 0 all choices of a prompt are the same, and are generated once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from reconciler.worker import sampling
from reconciler.worker.constraints.mask import Mask
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.output import OutputParser
from reconciler.worker.pending import Request
from reconciler.worker.prompt import Prompt
from reconciler.worker.reasoning_budget import ReasoningBudget
from reconciler.worker.request import Body, RequestError


@dataclass(eq=False)
class Choice:
    """One answer as it is generated."""

    number: int
    """Of its prompt's answers, from 0."""
    prompt: int
    """Which of the request's prompts it answers, from 0."""
    indices: range
    """Where it stands among the answers of the request; several if they are the same."""
    request: Request
    parser: OutputParser
    mask: Mask | None = None
    """What keeps it to its grammar, if it has one."""
    budget: ReasoningBudget | None = None
    """What ends its reasoning, if it may not go on for ever."""
    prompt_likelihoods: list[Likelihood] = field(default_factory=list)
    """Of its prompt's tokens but the first, once they are known, if they were asked for."""
    ended: bool = False
    likelihoods: list[Likelihood] = field(default_factory=list)
    """Since the last piece."""


def choices(
    body: Body, prompt: Prompt, make_parser: Callable[[], OutputParser], masks: list[Mask]
) -> list[Choice]:
    """The answers to generate, in order; the first of each prompt is followed by the others.

    `masks`: one for each answer to generate, or none.
    """
    number = body.n or 1
    made: list[Choice] = []
    apart = 1 if repeats(body) else number
    for place, tokens in enumerate(prompt.all_tokens):
        leader: Request | None = None
        for one in range(apart):
            request = Request(tokens, body.limit, lambda *_: None, lambda _: None, follows=leader)
            request.boundaries = prompt.boundaries
            leader = leader or request
            leader.leads = apart > 1
            begin = place * number + one
            indices = range(begin, begin + number // apart)
            mask = masks[len(made)] if masks else None
            made.append(Choice(one, place, indices, request, make_parser(), mask))
    return made


def repeats(body: Body) -> bool:
    """True if all answers to a prompt are the same."""
    return body.max_tokens == 0 or sampling.is_greedy(body)


def prepare(
    choice: Choice, body: Body, tokenizer: Any, vocabulary: int, ends: tuple[int, ...]
) -> None:
    """Set what chooses its tokens and what ends it; `ends`: tokens that end every answer.

    On the MLX thread. Raises `RequestError`.
    """
    request = choice.request
    try:
        processors = sampling.processors(body, vocabulary)
    except ValueError as error:
        raise RequestError(str(error), "invalid_value", "logit_bias") from None
    free = choice.mask is None
    if (body.ignore_eos and free) or body.stop_token_ids or request.ends:
        own = () if body.ignore_eos and free else (*ends, *(request.ends or ()))
        request.ends = (*own, *(body.stop_token_ids or ()))
    if body.min_tokens and free:
        known = [t for t in (ends if request.ends is None else request.ends) if t < vocabulary]
        processors.append(sampling.without_ends(known, len(request.prompt), body.min_tokens))
    special: list[int] = []
    if body.xtc_probability:
        special = [*tokenizer.encode("\n", add_special_tokens=False), *ends]
    if choice.budget is not None:
        processors.append(choice.budget)
    if choice.mask is not None:
        processors.append(choice.mask)  # last: no bias may allow what it forbids
    request.processors = processors
    if body.seed is not None and choice.number:
        body = msgspec.structs.replace(body, seed=body.seed + choice.number)
    known = [token for token in special if token < vocabulary]
    request.sampler = sampling.sampler(body, vocabulary, known)

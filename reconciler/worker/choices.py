"""The choices of one request: `n` for each prompt, generated in one batch.

The first choice of a prompt prefills it; the others start from the KV cache at the prompt's end.
Choice j of a prompt is sampled with `seed + j`, as in vLLM, so that it equals the completion of a
request with that seed. At temperature 0 all choices of a prompt are identical and generated once.
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
    """A choice and the state of its generation."""

    number: int
    """Index among the choices of its prompt, from 0."""
    prompt: int
    """Index of its prompt in the request, from 0."""
    indices: range
    """Indices among the choices of the request; several if these are identical."""
    request: Request
    parser: OutputParser
    mask: Mask | None = None
    """Token mask of its grammar, if it has one."""
    budget: ReasoningBudget | None = None
    """Limit on its reasoning, if it has one."""
    prompt_likelihoods: list[Likelihood] = field(default_factory=list)
    """Likelihoods of the prompt's tokens but the first, once computed, if they were requested."""
    ended: bool = False
    likelihoods: list[Likelihood] = field(default_factory=list)
    """Likelihoods of the tokens since the last piece."""


def choices(
    body: Body, prompt: Prompt, make_parser: Callable[[], OutputParser], masks: list[Mask]
) -> list[Choice]:
    """Create the choices to generate, in order; all others of a prompt follow its first one.

    `masks`: one for each choice to generate, or empty.
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
    """True if all choices of a prompt are identical."""
    return body.max_tokens == 0 or sampling.is_greedy(body)


def prepare(
    choice: Choice, body: Body, tokenizer: Any, vocabulary: int, ends: tuple[int, ...]
) -> None:
    """Set the sampler, the logits processors and the stop tokens of a choice.

    `ends`: stop tokens of the session. MLX thread only. Raises `RequestError`.
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
        processors.append(choice.mask)  # last: a bias must not allow a token that the mask forbids
    request.processors = processors
    if body.seed is not None and choice.number:
        body = msgspec.structs.replace(body, seed=body.seed + choice.number)
    known = [token for token in special if token < vocabulary]
    request.sampler = sampling.sampler(body, vocabulary, known)

"""End reasoning that exceeds a request's token budget.

If a completion is still inside reasoning after `budget` tokens, the tokens of the closing mark are
forced, one by one; after that, the model generates freely again. Reasoning that does not end with
one fixed mark, as in gpt-oss's messages, cannot be limited this way.
"""

import re
from typing import Any

import mlx.core as mx

from reconciler.worker.output.format import OutputFormat
from reconciler.worker.output.splitter import Splitter

_ESCAPE = re.compile(r"\\(.)")


def reasons(form: OutputFormat) -> bool:
    """True if models with this output format reason."""
    return any(region.kind == "reasoning" for region in form.regions)


def closing_mark(form: OutputFormat) -> str:
    """Text that closes reasoning; "" if there is no fixed one."""
    regions = [region for region in form.regions if region.kind == "reasoning"]
    if len(regions) != 1 or regions[0].headed:
        return ""
    mark = _ESCAPE.sub(r"\1", regions[0].closes)
    return mark if mark and re.fullmatch(regions[0].closes, mark) else ""


class ReasoningBudget:
    """A logits processor for one choice. MLX thread only."""

    def __init__(
        self, tokenizer: Any, form: OutputFormat, generation: str, prompt: int, budget: int
    ) -> None:
        """`generation`: the chat template's generation prompt; `prompt`: length of the prompt
        [tokens]; `budget`: tokens after which reasoning ends, at least 1.
        """
        self._tokenizer, self._form, self._generation = tokenizer, form, generation
        self._start, self._budget = prompt, budget
        mark = closing_mark(form)
        self._mark = [int(t) for t in tokenizer.encode(mark, add_special_tokens=False)]
        self._forces: bool | None = None
        """True if the mark is forced; None until the budget is reached."""

    def __call__(self, context: Any, logits: Any) -> Any:
        """Process logits (1, vocabulary): a forced token leaves all others at minus infinity."""
        number = len(context) - self._start - self._budget
        if not 0 <= number < len(self._mark) or self._forces is False:
            return logits
        if self._forces is None:
            self._forces = self._is_reasoning(context[self._start :].tolist())
        if not self._forces:
            return logits
        forced = mx.full(logits.shape, -mx.inf, logits.dtype)
        forced[..., self._mark[number]] = 0
        return forced

    def _is_reasoning(self, tokens: list[int]) -> bool:
        splitter = Splitter(self._form, calls=True, generation=self._generation)
        try:
            splitter.feed(self._tokenizer.decode(tokens[: self._budget]))
        except TimeoutError:  # the marks are the checkpoint's patterns, which may be slow
            return False
        return splitter.reasoning

"""Builds the grammar of a request's `Constraint`, and its matcher."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from reconciler.worker.constraints.asked import Constraint
from reconciler.worker.constraints.grammar import Enforced, Literals, build, special_tokens
from reconciler.worker.constraints.matchers import Matchers
from reconciler.worker.errors import RequestError
from reconciler.worker.output import OutputFormat, described


class Enforcer:
    """Enforces constraints on the completions of one checkpoint.

    Not for the event loop or the MLX thread: the first grammar of a checkpoint takes a second.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int], vocabulary: int) -> None:
        """See `Matchers`."""
        self._tokenizer = tokenizer
        self._matchers = Matchers(tokenizer, ends, vocabulary)
        self._literals: Literals | None = None

    def enforce(
        self, constraint: Constraint, form: OutputFormat, generation: str
    ) -> tuple[Enforced, Any]:
        """Return the grammar of the completion after `generation`, and llguidance's matcher.

        The matcher is None if nothing can be enforced. Raises `RequestError`.
        """
        if self._literals is None:
            self._literals = Literals(special_tokens(self._tokenizer))
        try:
            enforced = build(constraint, form, self._literals, generation)
            return enforced, self._matchers.matcher(enforced.text) if enforced.text else None
        except ValueError as error:
            words = f"{constraint.key} cannot be enforced: {error}"
            raise RequestError(words, "invalid_value", constraint.key) from None


def reading_form(enforced: Enforced, form: OutputFormat) -> OutputFormat:
    """Return the output format of completions under a grammar."""
    form = described(form) if enforced.plain_calls else form
    return replace(form, sealed=True) if enforced.sealed else form

"""A checkpoint's chat template: renders requests as sent, rewritten only as far as needed.

If a template raises on a conversation although its traits allow it, more is rewritten step by step.
The request fails only if every attempt fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.chat_template import uses
from reconciler.worker.chat import rendering
from reconciler.worker.chat import turns as rewriting
from reconciler.worker.chat.probes import Render, learn, takes
from reconciler.worker.chat.traits import Traits, offered, prepare
from reconciler.worker.chat.turns import Turn

Step = Callable[[list[Turn]], list[Turn]]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with the turns and variables that it was rendered from."""

    text: str
    turns: list[Turn]
    variables: dict[str, Any]
    described: bool
    """True if a system turn was added or extended to describe the tools."""


@dataclass(frozen=True)
class _Attempt:
    """A way to render a conversation."""

    traits: Traits
    further: tuple[Step, ...] = ()
    """Steps to apply after those of the traits."""
    complete: bool = False
    """True if missing keys are added to tools."""


class Template:
    """A chat template and its traits."""

    def __init__(self, render: Render, source: str, *, code: bool = False) -> None:
        """Detect the traits; `source` is the template's text. Never raises.

        `code`: True if the template is a function, which may reject unknown variables.
        """
        self._render = render
        self.source = source
        self.is_code = code
        self._taken: dict[str, bool] = {}
        self._problem: Exception | None = None
        try:
            self.traits = learn(render, source)
        except TimeoutError as error:  # each request would take as long
            self.traits, self._problem = Traits(), error

    def render(
        self, turns: list[Turn], tools: list[dict[str, Any]], variables: dict[str, Any]
    ) -> Rendered:
        """Render a conversation, rewritten as far as needed.

        Raises the template's exception of the first attempt, which applies only the traits.
        """
        if self._problem is not None:
            raise self._problem
        first: Exception | None = None
        for attempt in _attempts(self.traits):
            try:
                return self._rendered(attempt, turns, tools, variables)
            except TimeoutError:
                raise
            except Exception as error:  # noqa: BLE001  a template may raise anything
                first = first or error
        assert first is not None  # noqa: S101  there is at least one attempt
        raise first

    def _rendered(
        self,
        attempt: _Attempt,
        turns: list[Turn],
        tools: list[dict[str, Any]],
        variables: dict[str, Any],
    ) -> Rendered:
        traits = attempt.traits
        described = bool(tools) and traits.tools is None
        if attempt.complete:
            tools = rewriting.completed(tools)
        prepared = prepare(turns, tools if described else [], traits, offered=bool(tools))
        for step in attempt.further:
            prepared = step(prepared)
        given = {**traits.variables, **variables}
        if tools and traits.tools is not None:
            prepared, offer = offered(prepared, tools, traits.tools)
            given |= offer
        if traits.content == "parts":
            prepared = rewriting.content_as_parts(prepared)
        return Rendered(self._render(prepared, **given), prepared, given, described)

    def again(self, rendered: Rendered, **variables: Any) -> str:
        """Render the same turns with other variables, such as without a generation prompt."""
        return self._render(rendered.turns, **(rendered.variables | variables))

    def uses(self, variable: str) -> bool:
        """True if the template has a variable of that name."""
        if not self.is_code:
            return uses(self.source, variable)
        if variable not in self._taken:
            self._taken[variable] = takes(self._render, self.traits, variable)
        return self._taken[variable]

    def known(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the variables that the template accepts."""
        if not self.is_code:
            return variables
        return {name: value for name, value in variables.items() if self.uses(name)}


class Templates:
    """Chat templates of a checkpoint: usually one, sometimes a second one for tools."""

    def __init__(self, tokenizer: Any) -> None:
        """Detect their traits. Never raises."""
        sources = tokenizer.chat_template
        if not isinstance(sources, dict):
            sources = {"default": sources}
        default = sources.get("default") or next(iter(sources.values()))
        self._default = _template(tokenizer, default)
        self._tools = self._default
        if sources.get("tool_use") not in (None, default):
            self._tools = _template(tokenizer, sources["tool_use"])

    def of(self, *, tools: bool) -> Template:
        """Return the template for a request with or without tools."""
        return self._tools if tools else self._default


def templates_of(tokenizer: Any) -> Templates | None:
    """Return the chat templates of mlx-lm's tokenizer; None if it has none."""
    return Templates(tokenizer) if tokenizer.has_chat_template else None


def _template(tokenizer: Any, source: str | None) -> Template:
    if source is None or rendering.is_code(tokenizer):
        return Template(rendering.of_tokenizer(tokenizer), source or "{{ tools }}", code=True)
    return Template(rendering.of_source(tokenizer, source), source)


def _attempts(traits: Traits) -> Iterator[_Attempt]:
    """Yield the attempts to render; each one rewrites more than the previous one."""
    yield _Attempt(traits)
    merged = replace(traits, same_role=False, text_beside_reasoning=False)
    if traits.system == "anywhere":
        merged = replace(merged, system="first")
    yield _Attempt(merged, complete=True)
    careful = replace(merged, several_calls=False, arguments_any=False, developer=False)
    yield _Attempt(careful, (rewriting.user_first,), complete=True)
    plain = replace(careful, tools=None, calls="text", calls_without_tools="text")
    yield _Attempt(plain, (rewriting.user_first,))
    further = (rewriting.user_first, rewriting.merge_same_role)
    yield _Attempt(replace(plain, system="none"), further)

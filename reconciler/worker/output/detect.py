"""Detects the format in which a checkpoint writes reasoning and tool calls.

Candidates are the descriptions whose signs occur in the checkpoint's chat template. If the template
renders a turn with a tool call or with reasoning, the rendering decides: the description that
parses it back to the same turn is chosen, regardless of signs. Reasoning marks that no description
has are taken from the rendering.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from reconciler.core.chat_template import takes_tools
from reconciler.worker.chat import rendering
from reconciler.worker.output import declared
from reconciler.worker.output.call_form import PLAIN, CallForm, from_rendering
from reconciler.worker.output.families import CALLS, DESCRIBED, REASONING
from reconciler.worker.output.format import Description, OutputFormat, Region
from reconciler.worker.output.parser import Delta, TextParser

Render = Callable[..., str]
"""Renders messages through the chat template. Arguments: messages, tools, add_generation_prompt."""

_USER = {"role": "user", "content": "What is the weather in Paris?"}
_CITY = "Paris-on-Seine"
_NAME = "get_weather"
_ID = "abcdefgh1"
"""Nine letters or digits, as Mistral's templates require."""
_THOUGHT = "Consider the matter first."
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}


def detect(
    template: str,
    vocabulary: Collection[str] = (),
    *,
    render: Render | None = None,
    response_template: Any = None,
) -> OutputFormat:
    """Detect the output format of a checkpoint.

    `response_template`: the checkpoint's own description, which takes precedence. Without `render`
    only the signs decide. Never raises: errors in a template become the format's `problem`.
    """
    problem = ""
    if response_template is not None:
        try:
            return declared.from_template(response_template)
        except ValueError as error:
            problem = f"the checkpoint's response_template is ignored: {error}"
    if not template and render is None:
        return OutputFormat(problem=problem)
    reasoning, thinking = _reasoning(template, vocabulary, render)
    calls, calling, call_form = _calls(template, vocabulary, render)
    return OutputFormat(
        reasoning=", ".join(one.name for one in reasoning),
        calls=calls.name if calls else "",
        regions=_regions([*([calls] if calls else []), *reasoning]),
        dropped=calls.dropped if calls else "",
        call_form=call_form,
        problem="; ".join(filter(None, (problem, thinking, calling))),
    )


def of_tokenizer(
    tokenizer: Any, of_source: Callable[[Any, str], Render] = rendering.of_source
) -> OutputFormat:
    """Detect the output format of a checkpoint from the tokenizer that mlx-lm loaded. Never raises.

    `of_source` makes a render function from the tokenizer and the source of a chat template.
    """
    named = tokenizer.chat_template
    if not isinstance(named, Mapping):  # else templates by name, such as one for tools
        named = {"default": named}
    sources = {name: source for name, source in named.items() if isinstance(source, str)}
    return detect(
        "\n".join(dict.fromkeys(sources.values())),
        frozenset(tokenizer.get_vocab()),
        render=_renderer(tokenizer, sources, of_source) if tokenizer.has_chat_template else None,
        response_template=getattr(tokenizer, "response_template", None),
    )


def _renderer(
    tokenizer: Any, sources: Mapping[str, str], of_source: Callable[[Any, str], Render]
) -> Render:
    """Return a function that renders turns as requests do: in a sandbox, with a time limit."""
    if not sources or rendering.is_code(tokenizer):
        return rendering.of_tokenizer(tokenizer)
    default = sources.get("default") or next(iter(sources.values()))
    plain = of_source(tokenizer, default)
    own = sources.get("tool_use", default)
    with_tools = plain if own == default else of_source(tokenizer, own)

    def render(turns: list[dict[str, Any]], *, tools: Any = None, **variables: Any) -> str:
        return (with_tools if tools else plain)(turns, tools=tools, **variables)

    return render


def described(form: OutputFormat) -> OutputFormat:
    """Return the format for requests whose tools are described to the model in a system turn.

    A model trained on a call format of its own may still use it if its template does not accept
    tools (DeepSeek V3.1).
    """
    return OutputFormat(
        reasoning=form.reasoning,
        calls=DESCRIBED.name,
        regions=tuple(dict.fromkeys(DESCRIBED.regions + form.regions)),
        dropped=form.dropped,
        seconds=form.seconds,
        call_form=PLAIN,
    )


def _regions(descriptions: Sequence[Description]) -> tuple[Region, ...]:
    return tuple(dict.fromkeys(region for one in descriptions for region in one.regions))


def _signed(
    template: str, vocabulary: Collection[str], descriptions: Sequence[Description]
) -> list[Description]:
    """Return the descriptions whose signs a template has; if none, those whose tokens exist."""
    signed = [
        one
        for one in descriptions
        if any(all(sign in template for sign in group) for group in one.signs)
    ]
    if signed:
        return signed
    return [one for one in descriptions if one.tokens and all(t in vocabulary for t in one.tokens)]


# Tool calls


def _calls(
    template: str, vocabulary: Collection[str], render: Render | None
) -> tuple[Description | None, str, CallForm | None]:
    """Return the description of calls, the problem, and the form of a call with JSON arguments."""
    candidates = _signed(template, vocabulary, CALLS)
    rendered = _rendered_call(render) if render else None
    if rendered is None:
        if candidates or not takes_tools(template):
            return (candidates[0] if candidates else None), "", None
        problem = "tool calls stay in the text: the chat template does not show their format"
        return None, problem, None
    for one in [*candidates, *(other for other in CALLS if other not in candidates)]:
        if _gives_call(one, *rendered[:2]):
            return one, "", _call_form(one, *rendered[:2])
    if candidates:
        return candidates[0], "", None
    return None, "tool calls stay in the text: the chat template's call format is unknown", None


def _call_form(description: Description, generation: str, text: str) -> CallForm | None:
    """Return the form of a rendered call; None if a call in this form cannot be parsed back."""
    form = OutputFormat(regions=description.regions, dropped=description.dropped)
    found = from_rendering(generation, text, form, name=_NAME, arguments={"city": _CITY}, given=_ID)
    if found is None:
        return None
    written = found.filled(_NAME, json.dumps({"city": _CITY}))
    return found if _gives_call(description, generation, written) else None


def _rendered_call(render: Render) -> tuple[str, str, str] | None:
    """Render a turn with a call, as `_rendered` does; None if the template does not write calls."""
    arguments: dict[str, Any] = {"city": _CITY}
    for content in (None, ""):
        for form in (arguments, json.dumps(arguments)):
            function = {"name": _NAME, "arguments": form}
            call = {"id": _ID, "type": "function", "function": function}
            turn = {"role": "assistant", "content": content, "tool_calls": [call]}
            rendered = _rendered(render, turn, [_TOOL])
            if rendered is not None and _CITY in rendered[1]:
                return rendered
    return None


def _gives_call(description: Description, generation: str, text: str) -> bool:
    form = OutputFormat(regions=description.regions, dropped=description.dropped)
    delta = _parsed(form, generation, text, [_TOOL])
    functions = [call["function"] for call in delta.calls]
    return functions == [{"name": _NAME, "arguments": json.dumps({"city": _CITY})}]


# Reasoning


def _reasoning(
    template: str, vocabulary: Collection[str], render: Render | None
) -> tuple[list[Description], str]:
    """Return the descriptions of reasoning, and the problem."""
    candidates = _signed(template, vocabulary, REASONING)
    turn = {"role": "assistant", "content": "It rains."}
    for key in ("reasoning_content", "thinking", "reasoning", "thought"):
        turn[key] = _THOUGHT
    rendered = _rendered(render, turn, None) if render else None
    if rendered is None or _THOUGHT not in rendered[1]:
        return candidates, ""
    form = OutputFormat(regions=_regions([*CALLS[:1], *candidates]))
    # The opening mark of reasoning may occur only in the generation prompt.
    for generation in (rendered[0], rendered[2]):
        if _THOUGHT in _parsed(form, generation, rendered[1], []).reasoning:
            return candidates, ""
    found = _MARKED.search(rendered[1])
    if found is None:
        return candidates, "reasoning stays in the text: its format in the chat template is unknown"
    marks = re.escape(found["opens"]), re.escape(found["closes"])
    name = f"{found['opens']}…{found['closes']}"
    return [Description(name, "", (), (Region("reasoning", *marks),)), *candidates], ""


_MARK = r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]"
_MARKED = re.compile(rf"(?P<opens>{_MARK})\s*{re.escape(_THOUGHT)}\s*(?P<closes>{_MARK})")


# Rendering


def _rendered(
    render: Render, turn: Mapping[str, Any], tools: list[dict[str, Any]] | None
) -> tuple[str, str, str] | None:
    """Return the text before a turn, the turn, and the whole generation prompt; None on failure.

    The generation prompt may contain more than the text before a finished turn.
    """
    try:
        base = render([_USER], tools=tools, add_generation_prompt=False)
        prompt = render([_USER], tools=tools, add_generation_prompt=True)
        whole = render([_USER, turn], tools=tools, add_generation_prompt=False)
    except Exception:  # noqa: BLE001  a template may raise anything
        return None
    common = prompt
    if not whole.startswith(prompt):
        common = _whole_marks(common_beginning(prompt, whole))
    begin = len(base) if common.startswith(base) else 0
    text = whole[len(common) :]
    if common != prompt:  # a turn with instructions may follow the user's
        text = text.removeprefix(prompt[prompt.rfind("<") :])
    return common[begin:], text, prompt[begin:]


def common_beginning(one: str, other: str) -> str:
    """Return the longest common prefix of two texts."""
    pairs = zip(one, other, strict=False)
    return one[: next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))]


def _whole_marks(text: str) -> str:
    """Cut a text at the end of its last mark or line."""
    end = max(text.rfind(">"), text.rfind("\n"), text.rfind("]"))
    return text[: end + 1]


def _parsed(form: OutputFormat, generation: str, text: str, tools: list[dict[str, Any]]) -> Delta:
    """Parse a complete text as the output of a model."""
    parser = TextParser(form, generation=generation, tools=tools)
    return parser.feed(text, "stop")


def documented() -> Iterator[tuple[str, Description]]:
    """Yield every description with its subject, for the documentation."""
    for one in REASONING:
        yield "reasoning", one
    for one in (*CALLS, DESCRIBED):
        yield "tool calls", one

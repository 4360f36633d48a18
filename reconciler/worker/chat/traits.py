"""Traits of a chat template, and the conversion of conversations to its accepted form.

A conversation is rendered as sent if the template accepts it; else `turns` rewrites it.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from reconciler.worker.chat import turns as rewriting
from reconciler.worker.chat.turns import Turn, Written

Way = Literal["tools", "tools and system", "xml_tools", "functions", "system"]
"""Ways to pass tools to a template: in a variable, as a list or (`functions`) as JSON text; with
`tools and system`, for templates that write them only in a system turn; with `system`, as JSON text
under the key `tools` of the system turn, as Phi-4's requires."""


Calls = Literal["native", "written", "text"]
"""Forms of tool calls and results: as messages of their own; calls in the assistant's text and
results as messages; both as text."""


@dataclass(frozen=True)
class Traits:
    """Traits of a template. The defaults are those of one that accepts everything as sent."""

    variables: dict[str, Any] = field(default_factory=dict)
    """Variables that every conversation needs, such as an empty list of tools."""
    content: Literal["text", "parts"] = "text"
    system: Literal["anywhere", "first", "none"] = "anywhere"
    system_alone: bool = True
    """True if a system turn may be the only turn."""
    system_alone_with_tools: bool = True
    """True if a system turn may be the only turn when the template gets tools."""
    developer: bool = True
    """True if it accepts a developer turn at the front."""
    same_role: bool = True
    """True if turns of one role may follow each other."""
    tools: Way | None = "tools"
    calls: Calls = "native"
    """Form of tool calls and results when the template gets the tools."""
    calls_without_tools: Calls = "native"
    """Form of tool calls and results when it does not."""
    written: Written = "element"
    """Form of calls in the assistant's text, if they must be written there."""
    orphans: bool = True
    """True if it renders results whose calls are missing."""
    several_calls: bool = True
    """True if one turn may have several calls."""
    calls_beside_text: bool = True
    """True if a turn with text may also have calls."""
    text_beside_reasoning: bool = True
    """True if a turn with calls may have both text and reasoning."""
    short_ids: bool = False
    """True if ids of calls must be nine letters and digits."""
    arguments: Literal["object", "text"] = "object"
    arguments_any: bool = True
    """True if arguments that are not JSON are rendered unchanged."""


def prepare(
    turns: list[Turn], described: list[dict[str, Any]], traits: Traits, *, offered: bool
) -> list[Turn]:
    """Rewrite turns according to a template's traits.

    `described`: tools to describe in a system turn. `offered`: True if the request has tools.
    """
    turns = rewriting.reminders(turns, taken=traits.system == "anywhere")
    calls = any(turn.get("tool_calls") or turn["role"] == "tool" for turn in turns)
    way = "text" if described else traits.calls if offered else traits.calls_without_tools
    if calls:
        turns = with_calls(turns, traits, way)
    elif offered and way == "text":  # as with calls, so that later calls keep the KV cache valid
        turns = rewriting.merge_same_role(turns)
    developer = [turn for turn in turns if turn["role"] == "developer"]
    system = [turn for turn in turns if turn["role"] == "system"]
    kept = traits.developer and len(developer) == 1 and not system
    if developer and not (kept and turns[0] is developer[0] and not described):
        turns = rewriting.as_system(turns)
    if described:
        turns = rewriting.describe(turns, described)
    alone = traits.system_alone_with_tools if offered else traits.system_alone
    only_system = all(turn["role"] == "system" for turn in turns)
    if traits.system == "none" or (only_system and not alone):
        turns = rewriting.system_in_user(rewriting.as_system(turns))
    elif traits.system == "first" and not _only_first(turns):
        turns = rewriting.system_first(turns)
    return turns if traits.same_role else rewriting.merge_same_role(turns)


def _only_first(turns: list[Turn]) -> bool:
    """True if no turn but the first is a system turn."""
    return all(turn["role"] != "system" for turn in turns[1:])


def with_calls(turns: list[Turn], traits: Traits, way: Calls = "native") -> list[Turn]:
    """Rewrite tool calls and results to the form that the template accepts."""
    if way == "text":
        return rewriting.merge_same_role(rewriting.results_as_user(rewriting.written(turns)))
    if not traits.orphans:
        turns = rewriting.orphans_as_user(turns)
    if way == "written":
        return rewriting.written(turns, traits.written)
    if not traits.text_beside_reasoning:
        turns = rewriting.text_in_reasoning(turns)
    if not traits.calls_beside_text:
        turns = rewriting.text_before_calls(turns)
    if not traits.several_calls:
        turns = rewriting.one_call_a_turn(turns)
    if traits.short_ids:
        turns = rewriting.short_ids(turns)
    if traits.arguments == "text":
        turns = rewriting.arguments_as_text(turns)
    elif not traits.arguments_any:
        turns = rewriting.arguments_as_object(turns)
    return turns


def offered(
    turns: list[Turn], tools: list[dict[str, Any]], way: Way
) -> tuple[list[Turn], dict[str, Any]]:
    """Return the turns and the variables that pass tools to a template."""
    if way in ("tools", "xml_tools"):
        return turns, {way: tools}
    if way == "tools and system":
        return _system_at_front(turns), {"tools": tools}
    functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    if way == "functions":
        return turns, {"functions": functions}
    front = _system_at_front(turns)
    return [front[0] | {"tools": functions}, *front[1:]], {}


def _system_at_front(turns: list[Turn]) -> list[Turn]:
    if turns and turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": ""}, *turns]

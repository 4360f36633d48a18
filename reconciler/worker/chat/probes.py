"""Detects the traits of a chat template by rendering short conversations.

Templates differ in the input that they accept: positions of system turns, consecutive turns of one
role, the form of tools and their calls. Most show it only by raising an error or, worse, by
silently dropping text. Each trait is therefore detected once, when a checkpoint is loaded, from
conversations with distinctive texts: a text missing from the rendering was not accepted.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from reconciler.core.chat_template import takes_tools
from reconciler.worker.chat import turns as rewriting
from reconciler.worker.chat.rendering import UNDEFINED
from reconciler.worker.chat.traits import Calls, Traits, Way, offered, with_calls
from reconciler.worker.chat.turns import Turn

Render = Callable[..., str]
"""(turns, **variables) -> text. Raises whatever a template raises."""

_USER, _ASSISTANT, _SYSTEM = "quillwort", "bramblefinch", "saltmarsh"
_USER2, _ASSISTANT2, _SYSTEM2 = "quagmire seven", "birchwood nine", "sandpiper two"
_RESULT, _RESULT2 = "rookery", "ravenstone"
_TOOL, _TOOL2, _KEY, _VALUE, _VALUE2 = "tarnlight", "tidewrack", "knapweed", "vetchling", "verbena"


def _turn(role: str, content: str, **more: Any) -> Turn:
    return {"role": role, "content": content, **more}


def _tool(name: str) -> dict[str, Any]:
    value = {"type": "string", "description": "A value."}
    parameters = {"type": "object", "properties": {_KEY: value}, "required": [_KEY]}
    function = {"name": name, "description": "Look it up.", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = [_tool(_TOOL), _tool(_TOOL2)]


def _call(name: str, arguments: Any, number: int) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}00000000", "type": "function", "function": function}


def _round_trip(*arguments: Any, then: tuple[Turn, ...] = ()) -> list[Turn]:
    """Build a user turn, calls with these arguments, their results, and the turns `then`."""
    names, results = (_TOOL, _TOOL2), (_RESULT, _RESULT2)
    calls = [_call(names[i], value, i) for i, value in enumerate(arguments)]
    answers = [
        _turn("tool", results[i], tool_call_id=call["id"], name=names[i])
        for i, call in enumerate(calls)
    ]
    asked = _turn("assistant", "", tool_calls=calls)
    return [_turn("user", _USER), asked, *answers, *then]


class _Probe:
    """Renders conversations, each within the time left of `bounded.budget`."""

    def __init__(self, render: Render, traits: Traits) -> None:
        self.render, self.traits = render, traits

    def text(self, turns: list[Turn], **variables: Any) -> str:
        """Render turns; "" if the template fails. Raises TimeoutError."""
        if self.traits.content == "parts":
            turns = rewriting.content_as_parts(turns)
        try:
            return self.render(turns, **(self.traits.variables | variables))
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001  a template may raise anything
            return ""

    def shows(self, turns: list[Turn], *marks: str, **variables: Any) -> bool:
        """True if all marks appear in the rendering."""
        text = self.text(turns, **variables)
        return bool(text) and all(mark in text for mark in marks)


def learn(render: Render, source: str) -> Traits:
    """Detect the traits of a template. Raises TimeoutError if a rendering takes too long."""
    traits = Traits()
    for variables, content in _beginnings():
        tried = Traits(variables=variables, content=content)
        if _Probe(render, tried).shows([_turn("user", _USER)], _USER):
            traits = tried
            break
    traits = replace(traits, system=_learn_system(_Probe(render, traits)))
    probe = _Probe(render, traits)
    first = [_turn("developer", _SYSTEM), _turn("user", _USER)]
    developer = "developer" in source and probe.shows(first, _SYSTEM, _USER)
    pair = [_turn("user", _USER), _turn("user", _USER2)]
    answers = [_turn("assistant", _ASSISTANT), _turn("assistant", _ASSISTANT2)]
    same_role = probe.shows(pair, _USER, _USER2) and probe.shows(
        [_turn("user", _USER), *answers, _turn("user", _USER2)], _ASSISTANT, _ASSISTANT2
    )
    traits = replace(traits, developer=developer, same_role=same_role)
    traits = replace(
        traits,
        tools=_learn_way(probe) if takes_tools(source) else None,
        written=rewriting.form_of(source),
    )
    traits = _learn_calls(render, _learn_system_alone(render, traits))
    orphan = [_turn("user", _USER), _turn("tool", _RESULT, tool_call_id="call00000")]
    return replace(traits, orphans=_Probe(render, traits).shows(orphan, _USER, _RESULT))


def takes(render: Render, traits: Traits, variable: str) -> bool:
    """True if a template that is code accepts this variable."""
    return _Probe(render, traits).shows([_turn("user", _USER)], _USER, **{variable: True})


def _beginnings() -> Iterator[tuple[dict[str, Any], Literal["text", "parts"]]]:
    """Yield variables and content forms that any conversation may need, the fewest first."""
    today = time.strftime("%Y-%m-%d")
    needs: tuple[dict[str, Any], ...] = (
        {},
        {"tools": UNDEFINED},
        {"tools": []},
        {"functions": "[]", "datetime": today},
    )
    for content in ("text", "parts"):
        for variables in needs:
            yield variables, content


def _learn_system(probe: _Probe) -> Literal["anywhere", "first", "none"]:
    system, user = _turn("system", _SYSTEM), _turn("user", _USER)
    if not probe.shows([system, user], _SYSTEM, _USER):
        return "none"
    second = _turn("system", _SYSTEM2)
    more = [system, user, _turn("assistant", _ASSISTANT), second, _turn("user", _USER2)]
    marks = (_SYSTEM, _SYSTEM2, _USER, _USER2, _ASSISTANT)
    late = [user, _turn("assistant", _ASSISTANT), second, _turn("user", _USER2)]
    anywhere = (
        probe.shows(more, *marks)
        and probe.shows([system, second, user], _SYSTEM, _SYSTEM2, _USER)
        and probe.shows(late, *marks[1:])
    )
    return "anywhere" if anywhere else "first"


def _learn_system_alone(render: Render, traits: Traits) -> Traits:
    """Detect whether a system turn may be the only turn."""
    alone, probe = [_turn("system", _SYSTEM)], _Probe(render, traits)
    plain = with_tools = probe.shows(alone, _SYSTEM)
    if traits.tools is not None:
        turns, variables = offered(alone, _TOOLS, traits.tools)
        with_tools = probe.shows(turns, _SYSTEM, _TOOL, **variables)
    return replace(traits, system_alone=plain, system_alone_with_tools=with_tools)


def _learn_way(probe: _Probe) -> Way | None:
    """Detect the way to pass tools to the template; None if their names never appear."""
    ways: tuple[Way, ...] = ("tools", "tools and system", "xml_tools", "functions", "system")
    if probe.traits.system == "none":
        ways = ("tools", "xml_tools", "functions")
    conversations = [[_turn("user", _USER)]]
    if probe.traits.system != "none":
        conversations.append([_turn("system", _SYSTEM), _turn("user", _USER)])

    def shows(conversation: list[Turn], way: Way) -> bool:
        turns, variables = offered(conversation, _TOOLS, way)
        return probe.shows(turns, _TOOL, _TOOL2, _USER, **variables)

    return next((way for way in ways if all(shows(c, way) for c in conversations)), None)


def _learn_calls(render: Render, traits: Traits) -> Traits:
    """Detect the form in which the template accepts tool calls and their results."""
    then = (_turn("assistant", _ASSISTANT), _turn("user", _USER2))
    marks = (_USER, _TOOL, _KEY, _VALUE, _RESULT)
    single = _round_trip({_KEY: _VALUE})
    for short in (False, True):
        for arguments in ("object", "text"):
            tried = replace(traits, short_ids=short, arguments=arguments)
            shows = partial(_shows_calls, render, tried)
            if shows(single, marks) and shows(
                _round_trip({_KEY: _VALUE}, then=then), (*marks, _ASSISTANT, _USER2)
            ):
                return _learn_more_calls(render, tried)
    return _learn_results(render, traits)


def _learn_results(render: Render, traits: Traits) -> Traits:
    """Detect the form of calls for a template that renders, at most, their results."""
    turns = rewriting.written(_round_trip({_KEY: _VALUE}), traits.written)
    shows = partial(_shows_calls, render, traits, turns, (_USER, _TOOL, _VALUE, _RESULT))

    def way(*, tools: bool) -> Calls:
        return "written" if traits.tools is not None and shows(tools=tools) else "text"

    return replace(traits, calls=way(tools=True), calls_without_tools=way(tools=False))


def _learn_more_calls(render: Render, traits: Traits) -> Traits:
    single = _round_trip({_KEY: _VALUE})
    several = _round_trip({_KEY: _VALUE}, {_KEY: _VALUE2})
    odd = _round_trip(_VALUE)
    texts = _round_trip({_KEY: _VALUE})
    texts[1]["content"] = _ASSISTANT
    both = [turn | {"reasoning_content": _USER2} if turn is texts[1] else turn for turn in texts]
    known = (_TOOL, _VALUE, _RESULT)
    shows = partial(_shows_calls, render, traits)
    return replace(
        traits,
        calls_without_tools=(
            "native" if shows(single, (_USER, _TOOL, _VALUE, _RESULT), tools=False) else "text"
        ),
        several_calls=shows(several, (_TOOL, _TOOL2, _VALUE, _VALUE2, _RESULT, _RESULT2)),
        arguments_any=shows(odd, known),
        calls_beside_text=shows(texts, known),
        text_beside_reasoning=shows(both, known) or not shows(texts, known),
    )


def _shows_calls(
    render: Render, traits: Traits, turns: list[Turn], marks: tuple[str, ...], *, tools: bool = True
) -> bool:
    """True if a conversation with calls is rendered completely, with intact arguments."""
    turns = with_calls(turns, traits)
    variables: dict[str, Any] = {}
    if tools and traits.tools is not None:
        turns, variables = offered(turns, _TOOLS, traits.tools)
    text = _Probe(render, traits).text(turns, **variables)
    # A Python dictionary, or JSON inside a JSON string, means arguments of the wrong type.
    mangled = (f"'{_KEY}': '{_VALUE}'", f'\\"{_KEY}\\"')
    return all(mark in text for mark in marks) and not any(mark in text for mark in mangled)

"""Turns of a chat, and functions that rewrite them for templates that do not accept them as sent.

A turn is a dictionary as chat templates read it: `role`, `content` (text), and if sent
`reasoning_content`, `tool_calls`, `tool_call_id`, `name`; `REMINDS` is a key of our own. Each
function returns new turns and does not modify its arguments. `traits.py` and `template.py` choose
the functions to apply.
"""

import hashlib
import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

Turn = dict[str, Any]

Written = Literal["element", "list", "closed list", "pythonic"]
"""Forms of calls inside a text: `<tool_call>` elements, Granite's list, Phi 4's list, LFM2's
expressions."""

JOIN = "\n\n"
"""Separator of the texts of merged turns."""

REMINDS = "reminds"
"""Key of a system turn that must keep its position; not passed to templates."""

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
"""Id of a tool call as Mistral's templates require."""


def as_system(turns: list[Turn]) -> list[Turn]:
    """Rename developer turns to system turns."""
    return [t | {"role": "system"} if t["role"] == "developer" else t for t in turns]


def system_first(turns: list[Turn]) -> list[Turn]:
    """Merge all system turns into one at the front."""
    system = [t["content"] for t in turns if t["role"] == "system"]
    rest = [t for t in turns if t["role"] != "system"]
    return (
        [{"role": "system", "content": JOIN.join(filter(None, system))}, *rest] if system else rest
    )


def reminders(turns: list[Turn], *, taken: bool) -> list[Turn]:
    """Keep reminders, system turns with `REMINDS`, in place; as user turns if not `taken`.

    `taken`: True if the template accepts system turns anywhere. At the front, reminders would be
    out of place, and each new one would change the beginning of the prompt and so invalidate its KV
    cache. The form of the user turns is the one that coding agents describe to models.
    """

    def made(turn: Turn) -> Turn:
        if REMINDS not in turn:
            return turn
        if taken:
            return {key: value for key, value in turn.items() if key != REMINDS}
        text = f"<system-reminder>\n{turn['content']}\n</system-reminder>"
        return {"role": "user", "content": text}

    return [made(turn) for turn in turns]


def system_in_user(turns: list[Turn]) -> list[Turn]:
    """Prepend the text of all system turns to the first user turn."""
    merged = system_first(turns)
    if not merged or merged[0]["role"] != "system":
        return merged
    text, rest = merged[0]["content"], merged[1:]
    for index, turn in enumerate(rest):
        if turn["role"] == "user":
            both = JOIN.join(filter(None, (text, turn["content"])))
            return [*rest[:index], turn | {"content": both}, *rest[index + 1 :]]
    return [{"role": "user", "content": text}, *rest]


def merge_same_role(turns: list[Turn]) -> list[Turn]:
    """Merge consecutive turns of one role, except tool calls and their results."""
    merged: list[Turn] = []
    texts: list[list[str]] = []
    for turn in turns:
        last = merged[-1] if merged else {}
        plain = turn["role"] != "tool" and not turn.get("tool_calls") and not last.get("tool_calls")
        if plain and last.get("role") == turn["role"]:
            merged[-1] = last | turn
            texts[-1].append(turn["content"])
        else:
            merged.append(turn)
            texts.append([turn["content"]])
    return [
        turn | {"content": JOIN.join(filter(None, parts))} if len(parts) > 1 else turn
        for turn, parts in zip(merged, texts, strict=True)
    ]


def user_first(turns: list[Turn]) -> list[Turn]:
    """Begin with a user turn, an empty one if the assistant's is first."""
    at = next((i for i, t in enumerate(turns) if t["role"] != "system"), len(turns))
    if at < len(turns) and turns[at]["role"] == "user":
        return turns
    if at == len(turns):
        return system_in_user(turns)
    return [*turns[:at], {"role": "user", "content": ""}, *turns[at:]]


def one_call_a_turn(turns: list[Turn]) -> list[Turn]:
    """Split turns with several tool calls into turns with one call, each followed by its result."""
    split: list[Turn] = []
    results: list[Turn] = []
    for index, turn in enumerate(turns):
        calls = turn.get("tool_calls") or []
        if len(calls) < 2:
            if not any(turn is result for result in results):
                split.append(turn)
            continue
        results = _results_after(turns, index)
        for number, call in enumerate(calls):
            own = turn if number == 0 else {"role": "assistant", "content": ""}
            split.append(own | {"tool_calls": [call]})
            split += [r for r in results if _result_of(r, results, calls) == number]
    return split


def text_before_calls(turns: list[Turn]) -> list[Turn]:
    """Split turns with text and tool calls into two."""
    split: list[Turn] = []
    for turn in turns:
        if turn.get("tool_calls") and turn["content"]:
            split.append({key: value for key, value in turn.items() if key != "tool_calls"})
            split.append({"role": "assistant", "content": "", "tool_calls": turn["tool_calls"]})
        else:
            split.append(turn)
    return split


def text_in_reasoning(turns: list[Turn]) -> list[Turn]:
    """Move the text of turns with tool calls to the end of their reasoning."""

    def moved(turn: Turn) -> Turn:
        if not (turn.get("tool_calls") and turn["content"] and turn.get("reasoning_content")):
            return turn
        reasoning = JOIN.join((turn["reasoning_content"], turn["content"]))
        return turn | {"reasoning_content": reasoning, "content": ""}

    return [moved(turn) for turn in turns]


def completed(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the keys to tools that some templates read unconditionally, and simplify the schemas."""
    empty = {"description": "", "parameters": {}}
    functions = [empty | tool["function"] for tool in tools]
    for function in functions:
        parameters = {"type": "object", "properties": {}, "required": []}
        function["parameters"] = parameters | _plain_schema(function["parameters"])
    return [tool | {"function": function} for tool, function in zip(tools, functions, strict=True)]


def _plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Simplify a schema: no null values, a single type, and an object of properties."""
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            found = value.items() if isinstance(value, dict) else ()
            plain[key] = {k: _plain_schema(v if isinstance(v, dict) else {}) for k, v in found}
        elif key == "type" and isinstance(value, list):
            plain[key] = next((str(one) for one in value if one != "null"), "null")
        elif key == "items" and isinstance(value, dict):
            plain[key] = _plain_schema(value)
        elif value is not None:
            plain[key] = value
    return plain


def _results_after(turns: list[Turn], index: int) -> list[Turn]:
    after = []
    for turn in islice(turns, index + 1, None):
        if turn["role"] != "tool":
            break
        after.append(turn)
    return after


def _result_of(result: Turn, results: list[Turn], calls: list[Any]) -> int:
    """Return the index of a result's call: by its id, else by its position."""
    ids = [call.get("id") for call in calls]
    if result.get("tool_call_id") in ids and result.get("tool_call_id") is not None:
        return ids.index(result["tool_call_id"])
    place = next(i for i, other in enumerate(results) if other is result)
    return min(place, len(calls) - 1)


def short_ids(turns: list[Turn]) -> list[Turn]:
    """Give tool calls and their results ids of nine letters and digits."""
    made: list[Turn] = []
    pending: list[str] = []
    for number, turn in enumerate(turns):
        if turn.get("tool_calls"):
            calls = [
                call | {"id": _short_id(call.get("id") or f"{number}.{i}")}
                for i, call in enumerate(turn["tool_calls"])
            ]
            pending = [call["id"] for call in calls]
            made.append(turn | {"tool_calls": calls})
        elif turn["role"] == "tool":
            sent = turn.get("tool_call_id")
            name = _short_id(sent) if sent else (pending or [_short_id(str(number))])[0]
            pending = [other for other in pending if other != name]
            made.append(turn | {"tool_call_id": name})
        else:
            made.append(turn)
    return made


def _short_id(name: str) -> str:
    return name if _SHORT_ID.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:9]


def arguments_as_text(turns: list[Turn]) -> list[Turn]:
    """Write the arguments of tool calls as JSON text."""
    return [_with_arguments(turn, _as_text) for turn in turns]


def arguments_as_object(turns: list[Turn]) -> list[Turn]:
    """Wrap arguments that are not an object, such as text that is not JSON, in one."""

    def wrapped(arguments: Any) -> Any:
        return arguments if isinstance(arguments, dict) else {"arguments": arguments}

    return [_with_arguments(turn, wrapped) for turn in turns]


def _with_arguments(turn: Turn, change: Any) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    calls = [
        call | {"function": call["function"] | {"arguments": change(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def content_as_parts(turns: list[Turn]) -> list[Turn]:
    """Write contents as lists of one text part."""
    return [t | {"content": [{"type": "text", "text": t["content"]}]} for t in turns]


def written(turns: list[Turn], form: Written = "element") -> list[Turn]:
    """Write tool calls into the assistant's text."""
    plain: list[Turn] = []
    for turn in turns:
        if turn.get("tool_calls"):
            calls = _FORMS[form]([call["function"] for call in turn["tool_calls"]])
            text = "\n".join(filter(None, (turn["content"], calls)))
            rest = {key: value for key, value in turn.items() if key != "tool_calls"}
            plain.append(rest | {"content": text})
        else:
            plain.append(turn)
    return plain


def results_as_user(turns: list[Turn]) -> list[Turn]:
    """Convert tool results to user turns."""

    return [_as_user(turn) if turn["role"] == "tool" else turn for turn in turns]


def orphans_as_user(turns: list[Turn]) -> list[Turn]:
    """Convert results whose calls are missing, as in a truncated history, to user turns."""
    made: list[Turn] = []
    called = False
    for turn in turns:
        if turn["role"] == "tool":
            made.append(turn if called else _as_user(turn))
        else:
            called = bool(turn.get("tool_calls"))
            made.append(turn)
    return made


def _as_user(result: Turn) -> Turn:
    text = f"<tool_response>\n{result['content']}\n</tool_response>"
    return {"role": "user", "content": text}


def form_of(source: str) -> Written:
    """Return the form of calls for a template that accepts tools but does not render calls."""
    if "<|tool_list_start|>" in source:
        return "pythonic"
    if "<|/tool|>" in source:
        return "closed list"
    return "list" if "<|tool_call|>" in source else "element"


def _elements(functions: list[Any]) -> str:
    """Write one element for each call, as `description` prescribes."""
    calls = [{"name": f["name"], "arguments": f["arguments"]} for f in functions]
    return "\n".join(f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls)


def _list(functions: list[Any]) -> str:
    """Write calls in Granite's form."""
    calls = [{"name": f["name"], "arguments": f["arguments"]} for f in functions]
    return f"<|tool_call|>{_json(calls)}"


def _pythonic(functions: list[Any]) -> str:
    """Write calls in LFM2's form."""
    calls = []
    for function in functions:
        arguments = function["arguments"]
        pairs = arguments.items() if isinstance(arguments, dict) else [("arguments", arguments)]
        inner = ", ".join(f"{key}={_python(value)}" for key, value in pairs)
        calls.append(f"{function['name']}({inner})")
    return f"<|tool_call_start|>[{', '.join(calls)}]<|tool_call_end|>"


def _python(value: Any) -> str:
    return _json(value) if isinstance(value, str) else repr(value)


_FORMS: dict[Written, Callable[[list[Any]], str]] = {
    "element": _elements,
    "list": _list,
    "closed list": lambda functions: f"{_list(functions)}<|/tool_call|>",
    "pythonic": _pythonic,
}


def describe(turns: list[Turn], tools: list[dict[str, Any]]) -> list[Turn]:
    """Describe tools in a system turn, for a template that does not accept tools."""
    text = description(tools)
    if turns and turns[0]["role"] == "system":
        both = JOIN.join(filter(None, (turns[0]["content"], text)))
        return [turns[0] | {"content": both}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def description(tools: list[dict[str, Any]]) -> str:
    """Describe the tools and the call format, for a model that was not trained on tools."""
    listed = "\n".join(_json(tool["function"]) for tool in tools)
    return (
        "# Tools\n\n"
        "You can call functions to answer the user. These functions are available, each as a JSON "
        f"object:\n<tools>\n{listed}\n</tools>\n\n"
        "To call a function, write its name and its arguments as one JSON object between "
        "<tool_call> and </tool_call>, once for each call:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {"KEY": "VALUE"}}\n</tool_call>\n'
        "Then stop; the results follow between <tool_response> and </tool_response>. "
        "If no function is needed, answer without a call."
    )

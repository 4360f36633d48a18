"""Translate tools of Anthropic's API into functions of a chat completion.

A tool with `defer_loading` is not offered at the beginning. A client that searches its tools
refers to it by name later, and its definition is inserted in the text there. This keeps the
beginning of the prompt unchanged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.worker.dialects.messages.shapes import ToolChoice
from reconciler.worker.errors import RequestError

_KNOWN = frozenset(
    {
        *("type", "name", "description", "input_schema", "strict", "cache_control"),
        *("eager_input_streaming", "defer_loading", "allowed_callers"),
    }
)
"""Keys of a tool that have an effect here, or need none."""


@dataclass
class Tools:
    """A request's client-side tools, as functions."""

    offered: list[dict[str, Any]] = field(default_factory=list)
    """Tools offered from the beginning."""
    deferred: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Tools announced later, by name."""

    def definition(self, name: str) -> str:
        """Text that announces a tool to the model, in Claude Code's format."""
        tool = self.deferred.get(name)
        if tool is None:
            return f"The tool {name} is available."
        function = {"description": "", **tool["function"]}
        shown = {key: function[key] for key in ("description", "name", "parameters")}
        return f"<function>{json.dumps(shown, ensure_ascii=False)}</function>"


def of_request(tools: list[dict[str, Any]], names: dict[str, str], warnings: list[str]) -> Tools:
    """Translate the tools of a request. Raises `RequestError`.

    Adds the client's names of keys to `names`, and warnings about ignored parts to `warnings`.
    """
    found = Tools()
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        kind = tool.get("type")
        if kind == "function":
            words = f"{place}: 'function' belongs to another API; send name and input_schema"
            raise RequestError(words, "invalid_value", place)
        if "input_schema" not in tool and kind not in (None, "custom"):
            warnings.append(f"{place}: {str(kind)[:80]} is a tool of Anthropic's; ignored")
            continue
        described = function(tool, place)
        made = {"type": "function", "function": described}
        if tool.get("defer_loading") is True:
            found.deferred[described["name"]] = made
        else:
            number = len(found.offered)
            names[f"tools[{number}].function.parameters"] = f"{place}.input_schema"
            names[f"tools[{number}].function"] = names[f"tools[{number}]"] = place
            found.offered.append(made)
        warnings += [
            f"{place}.{key[:80]}: has no effect; ignored"
            for key, value in tool.items()
            if key not in _KNOWN and value not in (None, [], {})
        ]
    return found


def function(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Translate a tool with a schema into a function. Raises `RequestError`."""
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{place}.name: expected a string", "invalid_value", f"{place}.name")
    if not isinstance(schema, dict):
        where = f"{place}.input_schema"
        raise RequestError(f"{where}: expected a JSON schema", "invalid_value", where)
    made: dict[str, Any] = {"name": name}
    for key, expected in (("description", str), ("strict", bool)):
        value = tool.get(key)
        if value is None:
            continue
        if not isinstance(value, expected):
            where = f"{place}.{key}"
            words = f"{where}: expected {'a string' if expected is str else 'true or false'}"
            raise RequestError(words, "invalid_value", where)
        made[key] = value
    return made | {"parameters": schema}


def choice(asked: ToolChoice) -> dict[str, Any]:
    """Translate `tool_choice` into keys of a chat completion. Raises `RequestError`."""
    chosen: Any = {"auto": "auto", "any": "required", "none": "none"}.get(asked.type)
    if asked.type == "tool":
        if not asked.name:
            words = "tool_choice.name is missing: the tool to call"
            raise RequestError(words, "missing_required_parameter", "tool_choice.name")
        chosen = {"type": "function", "function": {"name": asked.name}}
    found = {"tool_choice": chosen}
    return found | ({"parallel_tool_calls": False} if asked.disable_parallel_tool_use else {})

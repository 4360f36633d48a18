"""Translate tools of the Responses API into functions of a chat, and `tool_choice`.

A custom tool takes text instead of JSON. It becomes a function with one argument, `input`, and its
calls are written in the client's form.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from reconciler.worker.dialects.responses.checking import converted
from reconciler.worker.errors import RequestError, unsupported

MOST = 1000
"""Maximum tools of a request. OpenAI allows 128; the worker's event loop processes each one."""

INPUT = "input"
"""Name of a custom tool's argument."""

Name = Annotated[str, msgspec.Meta(min_length=1)]


class FunctionTool(msgspec.Struct):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Format(msgspec.Struct):
    """Format of a custom tool's text."""

    type: str
    syntax: str = ""
    definition: str = ""


class CustomTool(msgspec.Struct):
    """A tool whose input is text."""

    name: Name
    description: str | None = None
    format: Format | None = None


@dataclass
class Tools:
    """The tools of a request."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    """Functions in a chat's form."""
    used: list[dict[str, Any]] = field(default_factory=list)
    """Tools in the response's form, without the ignored ones."""
    custom: list[str] = field(default_factory=list)
    """Names of the custom tools."""
    names: dict[str, str] = field(default_factory=dict)
    """Client's names of the functions' keys."""
    warnings: list[str] = field(default_factory=list)

    def only(self, allowed: set[str]) -> "Tools":
        """Select the tools with these names."""
        kept = [i for i, f in enumerate(self.functions) if f["function"]["name"] in allowed]
        own = [self.names[f"tools[{index}].function"] for index in kept]
        return Tools(
            [self.functions[index] for index in kept],
            self.used,
            self.custom,
            {f"tools[{index}].function": name for index, name in enumerate(own)},
            self.warnings,
        )


def read_tools(sent: Any) -> Tools:
    """Translate the `tools` of a request. Raises `RequestError`."""
    tools = Tools()
    if sent is None:
        return tools
    if isinstance(sent, list) and len(sent) > MOST:
        words = f"tools: there are {len(sent)}; the maximum is {MOST}"
        raise RequestError(words, "invalid_value", "tools")
    for index, tool in enumerate(converted(sent, list[dict[str, Any]], "tools")):
        place = f"tools[{index}]"
        kind = tool.get("type")
        if kind == "function":
            function = _function(converted(tool, FunctionTool, place))
        elif kind == "custom":
            function = _custom(converted(tool, CustomTool, place), place, tools)
        elif isinstance(kind, str):
            tools.warnings.append(f"{place}: tools of type {kind[:80]} are not supported, ignored")
            continue
        else:
            raise RequestError(f"{place}.type is missing", "invalid_value", f"{place}.type")
        tools.names[f"tools[{len(tools.functions)}].function"] = place
        tools.functions.append({"type": "function", "function": function})
        tools.used.append(_repeated(function) if kind == "function" else tool)
    return tools


def _function(tool: FunctionTool) -> dict[str, Any]:
    keys = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _repeated(function: dict[str, Any]) -> dict[str, Any]:
    """A function as echoed by the response; `strict` has its effective value."""
    return {"type": "function", "parameters": None, "strict": False} | function


def _custom(tool: CustomTool, place: str, tools: Tools) -> dict[str, Any]:
    described = tool.description or ""
    if tool.format is not None and tool.format.type == "grammar":
        described += f"\n\nThe input is in this {tool.format.syntax} grammar:\n"
        described += tool.format.definition
        tools.warnings.append(
            f"{place}.format: the grammar is described to the model, not enforced"
        )
    tools.custom.append(tool.name)
    return {
        "name": tool.name,
        "description": described.strip(),
        "parameters": {
            "type": "object",
            "properties": {INPUT: {"type": "string"}},
            "required": [INPUT],
        },
    }


def read_choice(choice: Any, tools: Tools) -> tuple[Any, Tools]:
    """Translate `tool_choice`; return it and the tools that the model may call.

    Raises `RequestError`.
    """
    if choice is None or choice in ("auto", "none", "required"):
        return choice, tools
    if isinstance(choice, dict):
        kind = choice.get("type")
        if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
            allowed = {_chosen(tool) for tool in choice["tools"]} - {None}
            left = tools.only({str(name) for name in allowed})
            mode = choice.get("mode", "auto")
            if mode in ("auto", "required"):
                return mode, left
            words = f"tool_choice.mode: {str(mode)[:80]!r} is neither auto nor required"
            raise RequestError(words, "invalid_value", "tool_choice.mode")
        name = _chosen(choice)
        if name is not None:
            return {"type": "function", "function": {"name": name}}, tools
    words = (
        'tool_choice must be auto, none, required, {"type": "function", "name": …}, '
        '{"type": "custom", "name": …} or {"type": "allowed_tools", "mode": …, "tools": […]}'
    )
    raise unsupported("tool_choice", words)


def _chosen(choice: Any) -> str | None:
    """Name of the chosen function or custom tool; None for other kinds of tools."""
    if not isinstance(choice, dict) or choice.get("type") not in ("function", "custom"):
        return None
    name = choice.get("name")
    return name if isinstance(name, str) else None

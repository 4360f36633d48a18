"""Tool calls, and functions that build them from objects and text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.worker.output import values
from reconciler.worker.output.patterns import Pattern


@dataclass(frozen=True)
class Call:
    """A tool call."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None
    """Id that the model wrote, if any."""


class Tools:
    """Parameter schemas of a request's tools, by tool name."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        """`tools`: in OpenAI's form. Invalid schemas are ignored."""
        self._properties: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                parameters = function.get("parameters")
                properties = (
                    parameters.get("properties") if isinstance(parameters, Mapping) else None
                )
                known = properties if isinstance(properties, Mapping) else {}
                self._properties[function["name"]] = known

    def __contains__(self, name: object) -> bool:
        return name in self._properties

    @property
    def names(self) -> frozenset[str]:
        """Names of the tools."""
        return frozenset(self._properties)

    def schema(self, tool: str, parameter: str) -> Any:
        """Return the schema of a parameter; None if it has none."""
        return self._properties.get(tool, {}).get(parameter)


@dataclass(frozen=True)
class Context:
    """Input of a reader besides the body of the call."""

    tools: Tools
    groups: Mapping[str, str]
    """Named groups of the opening mark."""
    pattern: str
    """Pattern of the region."""
    unclosed: bool
    """True if the model itself ended the call here: open brackets may be closed."""
    cut: bool = False
    """True if the completion was cut off here: open values may lack more than their brackets."""


_FENCE = Pattern(r"\s*+```\w*+\s*+(?P<inside>.*)", re.DOTALL)


def unfenced(text: str) -> str:
    """Remove the fence of a code block from a text."""
    fenced = _FENCE.fullmatch(text) if text.lstrip().startswith("```") else None
    if fenced is None:
        return text
    inside: str = fenced["inside"].rstrip()
    return inside.removesuffix("```").rstrip() if inside.endswith("```") else inside


_NAMES = ("name", "tool_name", "function", "tool")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")


def from_value(value: Any, tools: Tools) -> Call:
    """Build a call from an object in one of the forms that models use. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("a call must be an object")  # noqa: TRY004  every failure is a ValueError
    if isinstance(value.get("function"), dict):
        value = {**value, **value["function"]}
    key = next((k for k in _NAMES if isinstance(value.get(k), str) and value[k].strip()), None)
    if key is None:
        if len(value) == 1 and (name := next(iter(value))) in tools:
            return Call(name, arguments_of(value[name]))
        raise ValueError("the call has no name")
    place = next((k for k in _ARGUMENTS if k in value and k != key), None)
    if place is not None:
        arguments = arguments_of(value[place])
    else:
        known = {*_NAMES, *_IDS, "type"}
        arguments = {k: v for k, v in value.items() if k not in known}
    given = next((value[k] for k in _IDS if isinstance(value.get(k), str)), None)
    # A counter such as "0" restarts in each completion, so it does not identify a call.
    return Call(
        tool_name(value[key], tools), arguments, None if (given or "0").isdigit() else given
    )


def arguments_of(value: Any) -> dict[str, Any]:
    """Return an object of arguments; a string is parsed as JSON. Raises ValueError."""
    if isinstance(value, str):
        found = values.values(value)
        if len(found) > 1:
            raise ValueError("more than one value for the arguments")
        value = found[0] if found else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("arguments must be an object")  # noqa: TRY004  every failure is a ValueError
    return value


_PREFIX = "functions."
FIT = re.compile(r"[^\s<>{}\"'()\ud800-\udfff]+")
"""A valid name or id. UTF-8 cannot encode the lone surrogates that it excludes."""


def tool_name(text: str, tools: Tools) -> str:
    """Return a tool's name without the prefix and suffix of some formats. Raises ValueError."""
    name = text.strip()
    if name not in tools:
        bare = name.removeprefix(_PREFIX).removesuffix(".call")
        name = bare if name.startswith(_PREFIX) or bare in tools else name
    if name not in tools and not FIT.fullmatch(name):
        raise ValueError("the name is not a valid tool name")
    return name


def from_groups(name: str, arguments: str | None, given: str | None, context: Context) -> Call:
    """Build a call from the text of its parts; `given` is its id. Raises ValueError."""
    found = values.values(unfenced(arguments or ""), unclosed=context.unclosed)
    if context.cut and not found:
        raise ValueError("the call was cut off before its arguments")
    if len(found) > 1:
        raise ValueError("more than one value for the arguments")
    arguments_ = arguments_of(found[0] if found else None)
    return Call(tool_name(name, context.tools), arguments_, (given or "").strip() or None)

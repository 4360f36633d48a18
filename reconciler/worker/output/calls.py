"""Tool calls, and the objects and texts that they are made from."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.worker.output import values


@dataclass(frozen=True)
class Call:
    """A tool call."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None
    """Where the model gives one."""


class Tools:
    """The tools of a request, by name: the schemas of their parameters."""

    def __init__(self, tools: Iterable[Mapping[str, Any]] = ()) -> None:
        """Tools in OpenAI's form. What is no schema says nothing."""
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
        """The names of the tools."""
        return frozenset(self._properties)

    def schema(self, tool: str, parameter: str) -> Any:
        """The schema of a parameter; None if there is none."""
        return self._properties.get(tool, {}).get(parameter)


@dataclass(frozen=True)
class Context:
    """What a reader may know besides the body."""

    tools: Tools
    groups: Mapping[str, str]
    """What the opening mark said."""
    pattern: str
    """The region's."""
    unclosed: bool
    """True if the model ended the call here: brackets that are open may be closed."""
    cut: bool = False
    """True if the answer was cut off here: what is open may lack more than its end."""


_FENCE = re.compile(r"\s*```\w*\s*(?P<inside>.*?)\s*(?:```\s*)?", re.DOTALL)


def unfenced(text: str) -> str:
    """The text without the fence of a code block."""
    fenced = _FENCE.fullmatch(text) if text.lstrip().startswith("```") else None
    return fenced["inside"] if fenced else text


_NAMES = ("name", "tool_name", "function", "tool")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")


def from_value(value: Any, tools: Tools) -> Call:
    """A call from an object in one of the forms that models use."""
    if not isinstance(value, dict):
        raise ValueError("a call is an object")  # noqa: TRY004  one kind of error
    if isinstance(value.get("function"), dict):
        value = {**value, **value["function"]}
    key = next((k for k in _NAMES if isinstance(value.get(k), str) and value[k].strip()), None)
    if key is None:
        if len(value) == 1 and (name := next(iter(value))) in tools:
            return Call(name, arguments_of(value[name]))
        raise ValueError("a call without a name")
    place = next((k for k in _ARGUMENTS if k in value and k != key), None)
    if place is not None:
        arguments = arguments_of(value[place])
    else:
        known = {*_NAMES, *_IDS, "type"}
        arguments = {k: v for k, v in value.items() if k not in known}
    given = next((value[k] for k in _IDS if isinstance(value.get(k), str)), None)
    # A count such as "0" begins again in each answer, so it names no call.
    return Call(
        tool_name(value[key], tools), arguments, None if (given or "0").isdigit() else given
    )


def arguments_of(value: Any) -> dict[str, Any]:
    """An object of arguments, also from JSON inside a string."""
    if isinstance(value, str):
        found = values.values(value)
        if len(found) > 1:
            raise ValueError("several values for the arguments")
        value = found[0] if found else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("arguments are an object")  # noqa: TRY004  one kind of error
    return value


_PREFIX = "functions."
FIT = re.compile(r"[^\s<>{}\"'()\ud800-\udfff]+")
"""A name or an identifier: without half a surrogate pair, which UTF-8 cannot hold."""


def tool_name(text: str, tools: Tools) -> str:
    """A tool's name, without what some formats put around it. Raises ValueError."""
    name = text.strip()
    if name not in tools:
        bare = name.removeprefix(_PREFIX).removesuffix(".call")
        name = bare if name.startswith(_PREFIX) or bare in tools else name
    if name not in tools and not FIT.fullmatch(name):
        raise ValueError("no name of a tool")
    return name


def from_groups(name: str, arguments: str | None, given: str | None, context: Context) -> Call:
    found = values.values(unfenced(arguments or ""), unclosed=context.unclosed)
    if context.cut and not found:
        raise ValueError("the call was cut off before its arguments")
    if len(found) > 1:
        raise ValueError("several values for the arguments")
    arguments_ = arguments_of(found[0] if found else None)
    return Call(tool_name(name, context.tools), arguments_, (given or "").strip() or None)

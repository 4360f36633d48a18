"""Readers for calls written as JSON, as Python, or in similar formats."""

import html
from functools import cache
from re import DOTALL
from typing import Any

from reconciler.worker.output import values
from reconciler.worker.output.calls import (
    Call,
    Context,
    Tools,
    arguments_of,
    from_groups,
    from_value,
    tool_name,
    unfenced,
)
from reconciler.worker.output.patterns import Pattern


def read_json(body: str, context: Context) -> list[Call]:
    """Parse consecutive objects or lists of objects."""
    found = values.values(unfenced(body), unclosed=context.unclosed)
    items = [item for value in found for item in (value if isinstance(value, list) else [value])]
    return [from_value(item, context.tools) for item in items]


@cache
def _of_region(pattern: str) -> Pattern:
    return Pattern(pattern, DOTALL)


def read_named(body: str, context: Context) -> list[Call]:
    """Parse a body by the region's pattern."""
    found = _of_region(context.pattern).fullmatch(body)
    if found is None:
        raise ValueError("the call is malformed")
    groups = found.groupdict()
    return [from_groups(groups["name"], groups.get("arguments"), groups.get("id"), context)]


def read_headed(body: str, context: Context) -> list[Call]:
    """Parse a body of arguments; the opening mark contains the tool's name."""
    return [from_groups(context.groups["name"], body, context.groups.get("id"), context)]


def read_mistral(body: str, context: Context) -> list[Call]:
    """Parse a list of objects (older format), or name and arguments (newer format)."""
    if body.lstrip()[:1] in ("[", "{") and not body.lstrip().startswith("[ARGS]"):
        return read_json(body, context)
    return read_named(body, context)


def read_python(body: str, context: Context) -> list[Call]:
    """Parse `[NAME(KEY=VALUE), …]`, or consecutive calls."""
    text = body.strip()
    if _JSON.match(text):
        return read_json(text, context)
    parser = values.Tolerant(text, unclosed=context.unclosed)
    listed = parser.accept("[")
    calls: list[Call] = []
    while True:
        parser.space()
        if parser.peek() == "" or (listed and parser.accept("]")):
            return calls
        calls.append(_python_call(parser, context.tools))
        parser.space()
        _ = parser.accept(",") or parser.accept(";")


_JSON = Pattern(r"\[?\s*\{")
_PYTHON_NAME = Pattern(r"[A-Za-z_][\w.\-]*")


def _python_call(parser: values.Tolerant, tools: Tools) -> Call:
    found = _PYTHON_NAME.match(parser.text, parser.position)
    if found is None:
        raise ValueError("the call has no name")
    parser.position = found.end()
    if not parser.accept("("):
        raise ValueError("the call is malformed")
    arguments: dict[str, Any] = {}
    while True:
        parser.space()
        if parser.accept(")"):
            return Call(tool_name(found[0], tools), arguments)
        key = parser.key()
        parser.space()
        if not parser.accept("="):
            raise ValueError(f"no value for {key!r}")
        arguments[key] = parser.value()
        parser.space()
        if not parser.accept(",") and parser.peek() != ")":
            raise ValueError("arguments are not separated by commas")


_GEMMA_QUOTES = {'<|"|>': '<|"|>', "<escape>": "<escape>"}
_GEMMA_CALL = Pattern(r"\s*call:\s*(?P<name>[^\s{]+)\s*")


def read_gemma(body: str, context: Context) -> list[Call]:
    """Parse one or several `call:NAME{KEY:<|"|>text<|"|>}`."""
    parser = values.Tolerant(body, quotes=_GEMMA_QUOTES, unclosed=context.unclosed)
    calls = []
    while (found := _GEMMA_CALL.match(body, parser.position)) is not None:
        parser.position = found.end()
        if parser.peek() != "{":
            raise ValueError("the call has no arguments")
        calls.append(Call(tool_name(found["name"], context.tools), parser.value()))
    parser.space()
    if parser.peek():
        raise ValueError("the call is malformed")
    return calls


_XTML_PART = Pattern(
    r"<\|open\|>(?P<kind>argument|json)(?P<attributes>(?:(?!<\|sep\|>).)*)<\|sep\|>"
    r"(?P<value>.*?)<\|close\|>(?P=kind)<\|sep\|>",
    DOTALL,
)
_ATTRIBUTE = Pattern(r'(\w+)="([^"]*)"')


def read_xtml(body: str, context: Context) -> list[Call]:
    """Parse typed arguments, or one JSON object, between tags with attributes."""
    arguments: dict[str, Any] = {}
    for found in _XTML_PART.finditer(body):
        attributes = {k: html.unescape(v) for k, v in _ATTRIBUTE.findall(found["attributes"])}
        if found["kind"] == "json":
            arguments |= arguments_of(found["value"])
        elif "key" in attributes:
            text = found["value"]
            string = attributes.get("type", "string") == "string"
            value = text if string else values.from_text(text, None)
            arguments[attributes["key"]] = value
    return [Call(tool_name(html.unescape(context.groups["name"]), context.tools), arguments)]

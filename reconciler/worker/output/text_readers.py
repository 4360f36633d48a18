"""Readers of calls that are written as JSON, as Python, or in forms close to them."""

import html
import re
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


def read_json(body: str, context: Context) -> list[Call]:
    """Objects, or lists of objects, one after the other."""
    found = values.values(unfenced(body), unclosed=context.unclosed)
    items = [item for value in found for item in (value if isinstance(value, list) else [value])]
    return [from_value(item, context.tools) for item in items]


def read_named(body: str, context: Context) -> list[Call]:
    """A body that the region's pattern takes apart."""
    found = re.fullmatch(context.pattern, body, re.DOTALL)
    if found is None:
        raise ValueError("not the form of a call")
    groups = found.groupdict()
    return [from_groups(groups["name"], groups.get("arguments"), groups.get("id"), context)]


def read_headed(body: str, context: Context) -> list[Call]:
    """A body of arguments; the opening mark names the tool."""
    return [from_groups(context.groups["name"], body, context.groups.get("id"), context)]


def read_mistral(body: str, context: Context) -> list[Call]:
    """A list of objects (older), or name and arguments (newer)."""
    if body.lstrip()[:1] in ("[", "{") and not body.lstrip().startswith("[ARGS]"):
        return read_json(body, context)
    return read_named(body, context)


def read_python(body: str, context: Context) -> list[Call]:
    """`[NAME(KEY=VALUE), …]`, or calls one after the other."""
    text = body.strip()
    if re.match(r"\[?\s*\{", text):
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


_PYTHON_NAME = re.compile(r"[A-Za-z_][\w.\-]*")


def _python_call(parser: values.Tolerant, tools: Tools) -> Call:
    found = _PYTHON_NAME.match(parser.text, parser.position)
    if found is None:
        raise ValueError("a call without a name")
    parser.position = found.end()
    if not parser.accept("("):
        raise ValueError("not the form of a call")
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
            raise ValueError("arguments are not separated")


_GEMMA_QUOTES = {'<|"|>': '<|"|>', "<escape>": "<escape>"}
_GEMMA_CALL = re.compile(r"\s*call:\s*(?P<name>[^\s{]+)\s*")


def read_gemma(body: str, context: Context) -> list[Call]:
    """`call:NAME{KEY:<|"|>text<|"|>}`, one or several."""
    parser = values.Tolerant(body, quotes=_GEMMA_QUOTES, unclosed=context.unclosed)
    calls = []
    while (found := _GEMMA_CALL.match(body, parser.position)) is not None:
        parser.position = found.end()
        if parser.peek() != "{":
            raise ValueError("a call without arguments")
        calls.append(Call(tool_name(found["name"], context.tools), parser.value()))
    parser.space()
    if parser.peek():
        raise ValueError("not the form of a call")
    return calls


_XTML_PART = re.compile(
    r"<\|open\|>(?P<kind>argument|json)(?P<attributes>(?:(?!<\|sep\|>).)*)<\|sep\|>"
    r"(?P<value>.*?)<\|close\|>(?P=kind)<\|sep\|>",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def read_xtml(body: str, context: Context) -> list[Call]:
    """Arguments with their types, or one object, between tags with attributes."""
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

"""Readers for calls written in tags."""

from re import DOTALL
from typing import Any

from reconciler.worker.output import values
from reconciler.worker.output.calls import (
    Call,
    Context,
    Tools,
    arguments_of,
    from_groups,
    tool_name,
)
from reconciler.worker.output.patterns import Pattern
from reconciler.worker.output.text_readers import read_json, read_python

_INVOKE = Pattern(
    r"<(?![/\s])[^<>\s=]*?(?:function|invoke)(?:\s*+=\s*+|\s++name\s*+=\s*+)"
    r"[\"']?(?P<name>[^\"'<>]++)[\"']?\s*+>"
)
_INVOKE_END = r"</[^<>\s]*?(?:function|invoke)>"
_PARAMETER = Pattern(
    r"<(?![/\s])[^<>\s=]*?param(?:eter)?(?P<style>\s*+=\s*+|\s++name\s*+=\s*+)"
    r"[\"']?(?P<key>[^\"'<>\s]++)[\"']?(?P<attributes>\s[^<>]*+)?>"
)
_NEXT_PARAMETER = r"<[^<>\s/=]*?param(?:eter)?(?:\s*=|\s+name\s*=)"
_AFTER = rf"\s*(?:{_NEXT_PARAMETER}|{_INVOKE_END}|<[^<>\s/=]*?(?:function|invoke)[\s=]|\Z)"
_VALUE_END = Pattern(
    rf"</[^<>\s]*?param(?:eter)?>(?={_AFTER})|(?={_NEXT_PARAMETER})"
    rf"|(?={_INVOKE_END}\s*(?:<[^<>\s/=]*?(?:function|invoke)[\s=]|</|\Z))"
)
_CDATA = Pattern(r"\s*<!\[CDATA\[(.*)\]\]>\s*", DOTALL)
_ENDED = Pattern(rf"{_INVOKE_END}\s*\Z")
_INSIDE = Pattern(rf"(?:(?!{_INVOKE_END}).)*", DOTALL)


def read_invokes(body: str, context: Context) -> list[Call]:
    """Parse function tags that contain parameter tags, with any prefix.

    `<function=NAME><parameter=KEY>VALUE</parameter></function>` and
    `<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`.
    """
    if context.cut and not _ENDED.search(body):
        raise ValueError("the call was cut off")
    calls, at = [], 0
    while (found := _INVOKE.search(body, at)) is not None:
        name = tool_name(found["name"], context.tools)
        arguments, at = _parameters(body, found.end(), name, context.tools)
        if not arguments:
            inside = _INSIDE.match(body, at)
            text = inside[0] if inside else ""
            if text.lstrip().startswith("{"):  # JSON instead of tags
                arguments = arguments_of(text)
        calls.append(Call(name, arguments))
    return calls


def _parameters(body: str, at: int, tool: str, tools: Tools) -> tuple[dict[str, Any], int]:
    """Parse the parameters of one function from `at`; return them and the position after them."""
    found: list[tuple[Any, str]] = []
    while (opening := _PARAMETER.match(body, _after_space(body, at))) is not None:
        end = _VALUE_END.search(body, opening.end())
        found.append((opening, body[opening.end() : end.start() if end else len(body)]))
        at = end.end() if end else len(body)
    # A template that puts line breaks between marks and values does so for every value.
    texts = [text for opening, text in found if "name" not in opening["style"]]
    before = any(text.startswith("\n") for text in texts)
    after = all(text.endswith("\n") for text in texts)
    arguments: dict[str, Any] = {}
    for opening, text in found:
        key, attributes = opening["key"].strip(), opening["attributes"] or ""
        value = text
        if (cdata := _CDATA.fullmatch(text)) is not None:
            value = cdata[1]
        elif "name" not in opening["style"]:
            value = _unwrapped(text) if before else text[: -1 if after else None]
        arguments[key] = _tagged_value(value, attributes, tools.schema(tool, key))
    return arguments, _after_space(body, at)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _tagged_value(text: str, attributes: str, schema: Any) -> Any:
    if 'string="true"' in attributes:
        return text
    if 'string="false"' in attributes:
        try:
            (value,) = values.values(text)
        except ValueError:
            return text
        return value
    return values.from_text(text, schema)


def _unwrapped(text: str) -> str:
    """Remove the line breaks that templates put around a value."""
    return text[1:-1] if len(text) > 1 and text[0] == "\n" == text[-1] else text.removeprefix("\n")


_ARGUMENT = Pattern(
    r"\s*<(?P<prefix>\w*?)arg_key>\s*(?P<key>.*?)\s*</(?P=prefix)arg_key>\s*"
    r"<(?P=prefix)arg_value>(?P<value>.*?)"
    r"(?:</(?P=prefix)arg_value>(?=\s*(?:<(?P=prefix)arg_key>|\Z))"
    r"|(?=<(?P=prefix)arg_key>)|(?:</(?P=prefix)arg_value>)?\s*\Z)",
    DOTALL,
)
_HEAD = Pattern(r"\s*([^\s<>]+)")
_LIST = Pattern(r"\[\s*\{")
_PYTHON = Pattern(r"[A-Za-z_][\w.]*\(")
_NAMED = Pattern(r"(?P<name>[^\s<>{}\[\]]+)\s*(?P<arguments>(?:```|\{).*)", DOTALL)


def read_keyed(body: str, context: Context) -> list[Call]:
    """Parse `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`."""
    head = _HEAD.match(body)
    if head is None or context.cut:
        raise ValueError("the call has no name or was cut off")
    name, at, arguments = tool_name(head[1], context.tools), head.end(), {}
    while (found := _ARGUMENT.match(body, at)) is not None:
        key = found["key"]
        schema = context.tools.schema(name, key)
        arguments[key] = values.from_text(found["value"], schema)
        at = found.end()
    if body[at:].strip():
        raise ValueError("the call is malformed")
    return [Call(name, arguments)]


def read_tagged(body: str, context: Context) -> list[Call]:
    """Parse the text between `<tool_call>` and `</tool_call>`, in the format of any family."""
    text = body.strip()
    if _INVOKE.match(text):
        return read_invokes(text, context)
    if text[:1] in ("{", "`") or _LIST.match(text):
        return read_json(text, context)
    if text[:1] == "[" or _PYTHON.match(text):
        return read_python(text, context)
    if "arg_key>" in text or (text in context.tools):
        return read_keyed(text, context)
    found = _NAMED.fullmatch(text)
    if found is not None:
        return [from_groups(found["name"], found["arguments"], None, context)]
    raise ValueError("the call is malformed")

"""Readers of calls that are written in tags."""

import re
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
from reconciler.worker.output.text_readers import read_json, read_python

_INVOKE = re.compile(
    r"<(?![/\s])[^<>\s=]*?(?:function|invoke)(?:\s*=\s*|\s+name\s*=\s*)"
    r"[\"']?(?P<name>[^\"'<>]+?)[\"']?\s*>"
)
_INVOKE_END = r"</[^<>\s]*?(?:function|invoke)>"
_PARAMETER = re.compile(
    r"<(?![/\s])[^<>\s=]*?param(?:eter)?(?:\s*=\s*|\s+name\s*=\s*)"
    r"[\"']?(?P<key>[^\"'<>]+?)[\"']?(?P<attributes>\s[^<>]*)?>"
)
_NEXT_PARAMETER = r"<[^<>\s/=]*?param(?:eter)?(?:\s*=|\s+name\s*=)"
_AFTER = rf"\s*(?:{_NEXT_PARAMETER}|{_INVOKE_END}|<[^<>\s/=]*?(?:function|invoke)[\s=]|\Z)"
_VALUE_END = re.compile(
    rf"</[^<>\s]*?param(?:eter)?>(?={_AFTER})|(?={_NEXT_PARAMETER})"
    rf"|(?={_INVOKE_END}\s*(?:<[^<>\s/=]*?(?:function|invoke)[\s=]|</|\Z))"
)
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)


def read_invokes(body: str, context: Context) -> list[Call]:
    """Tags for functions with tags for parameters, by whatever prefix they have.

    `<function=NAME><parameter=KEY>VALUE</parameter></function>` and
    `<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`.
    """
    if context.cut and not re.search(rf"{_INVOKE_END}\s*\Z", body):
        raise ValueError("the call was cut off")
    calls, at = [], 0
    while (found := _INVOKE.search(body, at)) is not None:
        name = tool_name(found["name"], context.tools)
        arguments, at = _parameters(body, found.end(), name, context.tools)
        if not arguments:
            inside = re.compile(rf"(?:(?!{_INVOKE_END}).)*", re.DOTALL).match(body, at)
            text = inside[0] if inside else ""
            if text.lstrip().startswith("{"):  # JSON in place of tags
                arguments = arguments_of(text)
        calls.append(Call(name, arguments))
    return calls


def _parameters(body: str, at: int, tool: str, tools: Tools) -> tuple[dict[str, Any], int]:
    """The parameters of one function from there on, and where they end."""
    arguments: dict[str, Any] = {}
    while True:
        found = re.compile(r"\s*").match(body, at)
        at = found.end() if found else at
        opening = _PARAMETER.match(body, at)
        if opening is None:
            return arguments, at
        end = _VALUE_END.search(body, opening.end())
        text = body[opening.end() : end.start() if end else len(body)]
        at = end.end() if end else len(body)
        arguments[opening["key"].strip()] = _tagged_value(
            _unwrapped(text),
            opening["attributes"] or "",
            tools.schema(tool, opening["key"].strip()),
        )


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
    """A value without the line breaks, or the CDATA, that templates put around it."""
    if (cdata := _CDATA.fullmatch(text)) is not None:
        return cdata[1]
    if len(text) > 1 and text[0] == "\n" == text[-1]:
        return text[1:-1]
    return text.removesuffix("\n") if text.endswith("\n") and "\n" not in text[:-1] else text


_ARGUMENT = re.compile(
    r"\s*<(?P<prefix>\w*?)arg_key>\s*(?P<key>.*?)\s*</(?P=prefix)arg_key>\s*"
    r"<(?P=prefix)arg_value>(?P<value>.*?)"
    r"(?:</(?P=prefix)arg_value>(?=\s*(?:<(?P=prefix)arg_key>|\Z))"
    r"|(?=<(?P=prefix)arg_key>)|(?:</(?P=prefix)arg_value>)?\s*\Z)",
    re.DOTALL,
)


def read_keyed(body: str, context: Context) -> list[Call]:
    """`NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`."""
    head = re.match(r"\s*([^\s<>]+)", body)
    if head is None or context.cut:
        raise ValueError("a call without a name, or cut off")
    name, at, arguments = tool_name(head[1], context.tools), head.end(), {}
    while (found := _ARGUMENT.match(body, at)) is not None:
        key = found["key"]
        schema = context.tools.schema(name, key)
        arguments[key] = values.from_text(_unwrapped(found["value"]), schema)
        at = found.end()
    if body[at:].strip():
        raise ValueError("not the form of a call")
    return [Call(name, arguments)]


_KEYED_SIGN = re.compile(r"\s*[^\s<>{}\[\]]+\s*(?:<\w*arg_key>.*)?", re.DOTALL)


def read_tagged(body: str, context: Context) -> list[Call]:
    """What stands between `<tool_call>` and `</tool_call>`, whichever family wrote it."""
    text = body.strip()
    if _INVOKE.match(text):
        return read_invokes(text, context)
    if text[:1] in ("{", "`") or re.match(r"\[\s*\{", text):
        return read_json(text, context)
    if text[:1] == "[" or re.match(r"[A-Za-z_][\w.]*\(", text):
        return read_python(text, context)
    if "arg_key>" in text or (text in context.tools):
        return read_keyed(text, context)
    found = re.fullmatch(r"(?P<name>[^\s<>{}\[\]]+)\s*(?P<arguments>(?:```|\{).*)", text, re.DOTALL)
    if found is not None:
        return [from_groups(found["name"], found["arguments"], None, context)]
    raise ValueError("not the form of a call")

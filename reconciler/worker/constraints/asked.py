"""Constraints of a request: `response_format`, `tool_choice`, `strict`, other servers' equivalents.

All of them become a `Constraint`: parts of a grammar, each validated on its own, and the tools that
may or must be called.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.worker.constraints.compiling import (
    COMPILE_SECONDS,
    GrammarError,
    check,
    lark_grammar,
    schema_grammar,
)
from reconciler.worker.errors import RequestError, unsupported

if TYPE_CHECKING:
    from reconciler.worker.request import Body

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_NO_ARGUMENTS: dict[str, Any] = {"properties": {}, "additionalProperties": False}

GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Keys that constrain the text, each in a language of its own."""

CHOICES = 1000
"""Maximum number of choices."""


class CallGrammar(msgspec.Struct, frozen=True):
    """A tool that may be called."""

    name: str
    part: str
    """Grammar of its arguments, named `tool_INDEX`."""


class Constraint(msgspec.Struct, frozen=True):
    """Constraint on a completion. At least one of `answer` and `calls` is set."""

    answer: str = ""
    """Grammar of the text, named `answer`; "" if any text is allowed."""
    is_json: bool = False
    """True if the text is JSON, so that whitespace before it is harmless."""
    calls: tuple[CallGrammar, ...] = ()
    """Tools that may be called."""
    forced: bool = False
    """True if one of `calls` must be called."""
    key: str = ""
    """Key of the request that sets it, for messages."""


def constraint(body: "Body", names: Mapping[str, str]) -> Constraint | None:
    """Return the constraint of a request; None if it has none.

    `names`: for each key of the body, the name that was sent. Raises `RequestError`.
    """
    answer, is_json, key = _answer(body, names)
    chosen = _chosen_tools(body)
    strict = any((tool["function"].get("strict") is True) for tool in chosen or _offered(body))
    if body.tool_choice == "none":
        strict = False
    if not answer and chosen is None and not strict:
        return None
    if body.continues:
        words = f"{key or 'tool_choice'}: constrained output cannot continue a message"
        raise RequestError(words, "invalid_value", key or "tool_choice")
    offered = [] if body.tool_choice == "none" else _offered(body)
    calls = _calls(offered if chosen is None else chosen, body, forced=chosen is not None)
    if chosen is not None:
        return Constraint(calls=calls, forced=True, key="tool_choice")
    return Constraint(answer, is_json, calls, forced=False, key=key or "tools")


# The text


def _answer(body: "Body", names: Mapping[str, str]) -> tuple[str, bool, str]:
    """Return the grammar of the text, True if it is JSON, and the key that sets it."""
    asked = list(_asked(body, names))
    if not asked:
        return "", False, ""
    if len(asked) > 1:
        keys = " and ".join(key for key, _, _ in asked)
        raise RequestError(f"{keys} are mutually exclusive", "invalid_value", asked[1][0])
    key, kind, value = asked[0]
    try:
        part = _PARTS[kind](value)
        check(part)
    except GrammarError as error:
        raise RequestError(f"{key} cannot be enforced: {error}", "invalid_value", key) from None
    return part, kind == "json", key


def _asked(body: "Body", names: Mapping[str, str]) -> Sequence[tuple[str, str, Any]]:
    """Return key, kind and value of each constraint on the text."""
    asked: list[tuple[str, str, Any]] = []
    if body.response_format is not None:
        found = _response_format(body.response_format)
        asked += [found] if found else []
    asked += _structured_outputs(body.structured_outputs or {})
    for key in GUIDED:
        value = getattr(body, key)
        if value is not None:
            asked.append((names.get(key, key), key.removeprefix("guided_"), value))
    return asked


def _response_format(form: Mapping[str, Any]) -> tuple[str, str, Any] | None:
    """Parse OpenAI's key, and its variants in llama.cpp, which has the schema next to the type."""
    kind = form.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = form.get("schema")
        return "response_format", "json", _ANY_OBJECT if schema is None else schema
    if kind == "json_schema":
        nested = form.get("json_schema")
        place = "response_format.json_schema"
        schema = form.get("schema")
        if isinstance(nested, dict):
            schema, place = nested.get("schema", schema), f"{place}.schema"
        if schema is None:
            words = f"{place} is missing; set it to the JSON schema of the output"
            raise RequestError(words, "missing_required_parameter", "response_format")
        return "response_format", "json", schema
    words = (
        f"response_format.type {str(kind)[:80]!r} is not supported; "
        "use text, json_object or json_schema"
    )
    raise unsupported("response_format", words)


_OUTPUTS = {"json": "json", "regex": "regex", "choice": "choice", "grammar": "grammar"}


def _structured_outputs(outputs: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Parse vLLM's key."""
    asked: list[tuple[str, str, Any]] = []
    for name, value in outputs.items():
        key = f"structured_outputs.{name[:80]}"
        if value is None or value is False:
            continue
        if name in _OUTPUTS:
            asked.append((key, _OUTPUTS[name], value))
        elif name == "json_object":
            asked.append((key, "json", _ANY_OBJECT))
        elif name not in ("backend", "_backend", "disable_fallback"):
            raise unsupported("structured_outputs", f"{key} is not supported; leave it out")
    return asked


def _json_part(schema: Any) -> str:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError(f"it is not JSON: {error}") from None
    return schema_grammar("answer", schema)


def _regex_part(pattern: Any) -> str:
    from llguidance import LLMatcher

    if not isinstance(pattern, str):
        raise GrammarError("it is not a string")
    found = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]
    return lark_grammar("answer", str(found["lark_grammar"]))


def _choice_part(choices: Any) -> str:
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices):
        raise GrammarError("it is not a list of non-empty strings")
    if len(choices) > CHOICES:
        raise GrammarError(f"it has {len(choices)} choices; the maximum is {CHOICES}")
    return lark_grammar("answer", "start: " + " | ".join(map(quoted, choices)))


def _grammar_part(text: Any) -> str:
    """Convert a grammar in llama.cpp's GBNF, or in Lark."""
    from llguidance.gbnf_to_lark import any_to_lark

    if not isinstance(text, str):
        raise GrammarError("it is not a string")
    if len(text) > LONGEST_GRAMMAR:
        raise GrammarError(f"it has {len(text)} characters; the maximum is {LONGEST_GRAMMAR}")
    try:
        return lark_grammar("answer", any_to_lark(text))
    except GrammarError:
        raise
    except Exception as error:  # noqa: BLE001  the converter may raise anything
        raise GrammarError(f"{type(error).__name__}: {error}"[:500]) from None


LONGEST_GRAMMAR = 50_000
"""Maximum characters of a grammar: GBNF is converted in Python."""

_PARTS = {
    "json": _json_part,
    "regex": _regex_part,
    "choice": _choice_part,
    "grammar": _grammar_part,
}


def quoted(text: str) -> str:
    """Write a text as a literal of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


# Tool calls


def _offered(body: "Body") -> list[dict[str, Any]]:
    return [t for t in body.sent_tools if isinstance(t.get("function"), dict)]


def _chosen_tools(body: "Body") -> list[dict[str, Any]] | None:
    """Return the tools of which one must be called; None if none must. Raises `RequestError`."""
    choice = body.tool_choice
    if choice in (None, "auto", "none"):
        return None
    offered = _offered(body)
    if choice in ("required", "any"):
        names = None
    else:
        names = _names(choice)
        if names is None:
            words = (
                "tool_choice must be auto, none, required, or "
                '{"type": "function", "function": {"name": …}}'
            )
            raise unsupported("tool_choice", words)
    chosen = [t for t in offered if names is None or t["function"].get("name") in names]
    if not chosen:
        wanted = f"a tool named {min(names)[:80]!r}" if names else "a tool"
        words = f"tool_choice requires {wanted}, but tools has none"
        raise RequestError(words, "invalid_value", "tool_choice")
    return chosen


def _names(choice: Any) -> set[str] | None:
    """Return the names in a `tool_choice`; None if it has another form."""
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        tools = allowed.get("tools") if isinstance(allowed, dict) else None
        if not isinstance(tools, list) or allowed.get("mode") != "required":
            return None
        found = [_names(tool) for tool in tools]
        return {name for names in found if names for name in names} or None
    if choice.get("type", "function") != "function":
        return None
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    return {name} if isinstance(name, str) else None


def _calls(
    tools: Sequence[Mapping[str, Any]], body: "Body", *, forced: bool
) -> tuple[CallGrammar, ...]:
    """Return the tools with the grammars of their arguments. Raises `RequestError`."""
    sent = {id(tool): index for index, tool in enumerate(body.sent_tools)}
    calls, seconds = [], COMPILE_SECONDS
    for number, tool in enumerate(tools):
        function = tool["function"]
        enforced = forced or function.get("strict") is True
        schema = function.get("parameters") or _NO_ARGUMENTS
        place = f"tools[{sent[id(tool)]}].function.parameters"
        try:
            part = schema_grammar(f"tool_{number}", _object(schema) if enforced else _ANY_OBJECT)
            if enforced:
                seconds -= check(part, seconds)
        except GrammarError as error:
            words = f"{place} cannot be enforced: {error}"
            raise RequestError(words, "invalid_value", place) from None
        calls.append(CallGrammar(function["name"], part))
    return tuple(calls)


def _object(schema: Any) -> Any:
    """Set the type in a schema of arguments that has none: arguments are an object."""
    return {"type": "object"} | schema if isinstance(schema, dict) else schema

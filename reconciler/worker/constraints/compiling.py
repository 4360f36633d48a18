"""Checks whether llguidance can enforce a grammar."""

import json
from typing import Any

from reconciler.worker.constraints.formats import with_patterns

LONGEST = 500_000
"""Characters of a schema or a grammar. The largest published ones have some 100,000."""

WHITESPACE = r"( |\r?\n[ \t]{0,24})"
"""Between the parts of a JSON value: a space, or a line break with an indentation. Without a bound
a model may write whitespace until its tokens run out."""

_ONE_OF = (
    "oneOf is enforced only where its alternatives exclude each other by a constant property or by "
    "their types; use anyOf"
)


class GrammarError(ValueError):
    """The grammar cannot be enforced; the message says which part of it."""


def schema_grammar(name: str, schema: Any) -> str:
    """A part of a grammar: JSON that the schema allows. Raises `GrammarError`."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema is an object")
    options = {"whitespace_pattern": WHITESPACE}
    try:
        return _part({"name": name, "json_schema": with_patterns(schema) | {"x-guidance": options}})
    except RecursionError:
        raise GrammarError("it is nested too deep") from None


def lark_grammar(name: str, lark: str) -> str:
    """A part of a grammar, in llguidance's variant of Lark. Raises `GrammarError`."""
    return _part({"name": name, "lark_grammar": lark})


def _part(grammar: dict[str, Any]) -> str:
    text = json.dumps(grammar, ensure_ascii=False)
    if len(text) > LONGEST:
        raise GrammarError(f"it has {len(text)} characters; at most {LONGEST} are taken")
    return text


def whole(parts: list[str]) -> str:
    """A grammar of several parts, the first of which is where it starts."""
    return f'{{"grammars": [{", ".join(parts)}]}}'


def check(part: str) -> None:
    """Raise `GrammarError` if llguidance cannot compile a part by itself.

    Takes time and memory: a grammar is bounded by llguidance's own limits.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(whole([part]), None)
    if failed:
        raise GrammarError(reason(messages[0]))


def reason(message: str) -> str:
    """llguidance's message, bounded and without advice for its own API."""
    if message.startswith("oneOf constraints are not supported"):
        return _ONE_OF
    return message.strip()[:500]

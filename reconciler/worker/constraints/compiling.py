"""Checks whether llguidance can enforce a grammar."""

import json
from typing import Any

from reconciler.worker.constraints.formats import with_patterns

LONGEST = 500_000
"""Maximum characters of a schema or a grammar. The largest published ones have about 100,000."""

WHITESPACE = r"( |\r?\n[ \t]{0,24})"
"""Whitespace between the parts of a JSON value: a space, or a line break with an indentation.
Without a bound, a model may write whitespace until it reaches its token limit."""

_ONE_OF = (
    "oneOf is supported only if a constant property or their types make its alternatives mutually "
    "exclusive; use anyOf"
)


class GrammarError(ValueError):
    """The grammar cannot be enforced; the message names the part that is not supported."""


def schema_grammar(name: str, schema: Any) -> str:
    """Build a part of a grammar: JSON that the schema allows. Raises `GrammarError`."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema must be an object")
    options = {"whitespace_pattern": WHITESPACE}
    try:
        return _part({"name": name, "json_schema": with_patterns(schema) | {"x-guidance": options}})
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None


def lark_grammar(name: str, lark: str) -> str:
    """Build a part of a grammar in llguidance's variant of Lark. Raises `GrammarError`."""
    return _part({"name": name, "lark_grammar": lark})


def _part(grammar: dict[str, Any]) -> str:
    text = json.dumps(grammar, ensure_ascii=False)
    if len(text) > LONGEST:
        raise GrammarError(f"it has {len(text)} characters; the maximum is {LONGEST}")
    return text


def whole(parts: list[str]) -> str:
    """Combine parts into a grammar, which starts with the first part."""
    return f'{{"grammars": [{", ".join(parts)}]}}'


def check(part: str) -> None:
    """Raise `GrammarError` if llguidance cannot compile a part on its own.

    Takes time and memory; only llguidance's own limits apply to them.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(whole([part]), None)
    if failed:
        raise GrammarError(reason(messages[0]))


def reason(message: str) -> str:
    """Return llguidance's message, truncated and without advice on its own API."""
    if message.startswith("oneOf constraints are not supported"):
        return _ONE_OF
    return message.strip()[:500]

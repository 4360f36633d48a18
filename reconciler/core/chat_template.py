"""Properties of chat templates that can be read from their text, without rendering them.

The daemon reports it before a model is loaded, and the worker decides by it how tools reach the
model, so that what is reported and what happens cannot differ.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# What is not closed goes to the end: looking for the end again from each beginning would take
# minutes for a hostile template of a few megabytes.
_BLOCK = re.compile(r"\{\{(.*?)(?:\}\}|\Z)|\{%(.*?)(?:%\}|\Z)", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?(?:#\}|\Z)", re.DOTALL)
_STRING = re.compile(r"'(?:\\.|[^'\\])*+(?:'|\Z|\\)|\"(?:\\.|[^\"\\])*+(?:\"|\Z|\\)", re.DOTALL)
_VARIABLE = re.compile(r"\b(?:(?:xml_|python_|custom_)?tools|functions)\b")
_SUBSCRIPT = re.compile(r"""\[\s*['"]tools['"]\s*\]|\.get\(\s*['"]tools['"]""")


def takes_tools(template: str) -> bool:
    """True if a Jinja chat template uses a variable or a message key for tools.

    They are called `tools`, rarely `xml_tools` (SmolLM3) or `functions` (firefunction).

    Text outside of Jinja's blocks, comments and string literals do not count: a template whose
    default system prompt speaks of tools does not take any.
    """
    return any(
        _SUBSCRIPT.search(code) or _VARIABLE.search(_STRING.sub("''", code))
        for code in _blocks(template)
    )


def uses(template: str, variable: str) -> bool:
    """True if a Jinja chat template has a variable of that name; attributes do not count."""
    name = re.compile(rf"(?<![.\w]){re.escape(variable)}\b")
    return any(name.search(_STRING.sub("''", code)) for code in _blocks(template))


@dataclass(frozen=True)
class Reasoning:
    """Whether and how much a model can be made to reason, in LM Studio's words."""

    options: tuple[str, ...]
    """Of `off`, `on`, `low`, `medium` and `high`."""
    default: str
    """What happens if nothing is said."""


_SWITCH = r"(?:enable_)?thinking"
_DEFAULTS_TO_ON = re.compile(
    rf"\b(?P<a>{_SWITCH})\s+is\s+defined\s+and\s+(?:not\s+(?P=a)\b|(?P=a)\s*(?:is|==)\s*false)"
    rf"|\b(?P<b>{_SWITCH})\s+is\s+(?:not\s+defined|undefined)\s+or\s+(?P=b)\b"
    rf"|\bif\s+{_SWITCH}\s+is\s+defined\s+else\s+true"
    rf"|\bset\s+{_SWITCH}\s*=\s*true"
    rf"|\b{_SWITCH}\s*\|\s*default\s*\(\s*true",
    re.IGNORECASE,
)
_MARKS = ("<think>", "[THINK]", "<thinking>", "<|channel>thought")
"""That begin the reasoning of a model which always reasons."""


def reasoning(template: str) -> Reasoning | None:
    """What can be said about reasoning to a model with this chat template; None: it has none.

    The switches are those that `worker.reasoning` sets. A template without one reasons always if
    its text has a mark of reasoning.
    """
    switches = [name for name in ("enable_thinking", "thinking") if uses(template, name)]
    budget = uses(template, "thinking_budget")
    levels = ("low", "medium", "high") if uses(template, "reasoning_effort") else ()
    if switches or budget:
        code = " ".join(_STRING.sub("''", block) for block in _blocks(template))
        on = not switches or _DEFAULTS_TO_ON.search(code)
        return Reasoning(("off", "on", *levels), "on" if on else "off")
    if levels:
        return Reasoning(levels, "medium")
    return Reasoning(("on",), "on") if any(mark in template for mark in _MARKS) else None


def _blocks(template: str) -> Iterator[str]:
    """The code of Jinja's blocks."""
    for block in _BLOCK.finditer(_COMMENT.sub("", template)):
        yield block[1] or block[2] or ""

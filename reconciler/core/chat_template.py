"""Properties of chat templates that can be read from their text, without rendering them.

The daemon reports them before a model is loaded, and the worker uses them to choose how tools reach
the model, so that report and behaviour cannot differ.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# An unclosed block extends to the end: searching for its end again from each beginning would take
# minutes for a hostile template of a few megabytes.
_BLOCK = re.compile(r"\{\{(.*?)(?:\}\}|\Z)|\{%(.*?)(?:%\}|\Z)", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?(?:#\}|\Z)", re.DOTALL)
_STRING = re.compile(r"'(?:\\.|[^'\\])*+(?:'|\Z|\\)|\"(?:\\.|[^\"\\])*+(?:\"|\Z|\\)", re.DOTALL)
_VARIABLE = re.compile(r"\b(?:(?:xml_|python_|custom_)?tools|functions)\b")
_SUBSCRIPT = re.compile(r"""\[\s*['"]tools['"]\s*\]|\.get\(\s*['"]tools['"]""")


def takes_tools(template: str) -> bool:
    """True if a Jinja chat template uses a variable or a message key for tools.

    Their usual name is `tools`, rarely `xml_tools` (SmolLM3) or `functions` (firefunction).

    Text outside Jinja's blocks, comments and string literals do not count: a template whose
    default system prompt mentions tools does not take any.
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
    """Reasoning options of a model, in LM Studio's terms."""

    options: tuple[str, ...]
    """Any of `off`, `on`, `low`, `medium` and `high`."""
    default: str
    """Option in force for requests without one."""


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
"""Marks that begin the reasoning of a model that always reasons."""


def reasoning(template: str) -> Reasoning | None:
    """Reasoning options of a model with this chat template; None: it does not reason.

    The switches are those that `worker.reasoning` sets. A model whose template has no switch always
    reasons if the template's text has a mark of reasoning.
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
    """The code inside Jinja's blocks."""
    for block in _BLOCK.finditer(_COMMENT.sub("", template)):
        yield block[1] or block[2] or ""

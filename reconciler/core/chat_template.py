"""Properties of chat templates that can be read from their text, without rendering them.

The daemon reports it before a model is loaded, and the worker decides by it how tools reach the
model, so that what is reported and what happens cannot differ.
"""

import re
from collections.abc import Iterator

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


def _blocks(template: str) -> Iterator[str]:
    """The code of Jinja's blocks."""
    for block in _BLOCK.finditer(_COMMENT.sub("", template)):
        yield block[1] or block[2] or ""

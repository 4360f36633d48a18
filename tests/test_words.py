"""Test that the code keeps to the rules for English in CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FIRST_WORD = re.compile(r"(Of|What|Who|Whose|Whether|Why|Where|How|That|Which)\b")
"""A docstring begins with a verb or with a noun phrase that stands alone."""

AVOIDED = re.compile(r"\b(told|tells|wish|wishes|mend|mends|mended)\b")
"""Words for which the field has others: emit, report, spec, fix."""


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Strings that stand alone: of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def test_docstrings_follow_the_rules_for_english() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {str(text.value).strip().splitlines()[0]}"
        for path in sorted((ROOT / "reconciler").rglob("*.py"))
        for text in docstrings(ast.parse(path.read_text("utf-8")))
        if FIRST_WORD.match(str(text.value).strip()) or AVOIDED.search(str(text.value))
    ]
    assert broken == []

"""Test that mlx-lm's tool parsers find the same calls in a turn."""

import importlib
from typing import Any

import pytest

from tests.rendering import OWN
from tests.worker.test_round_trip import TOOLS, parse, rendered, turn_of

PARSERS = {
    "hermes": "json_tools",
    "qwen_tags": "qwen3_coder",
    "glm": "glm47",
    "kimi": "kimi_k2",
    "minimax": "minimax_m2",
    "gemma4": "gemma4",
    "lfm2": "pythonic",
    "longcat": "longcat",
    "minicpm5": "minicpm5",
    "kimi_k3": "kimi_k3",
}
"""Template -> module of mlx_lm.tool_parsers.

Excluded are Mistral's with call IDs, which mlx-lm takes for the name, and Muse Spark's, as
mlx-lm takes a text of digits for a number whatever the schema says.
"""


@pytest.mark.parametrize("case", ["call", "nested", "numbers"])
@pytest.mark.parametrize("family", PARSERS)
def test_mlx_lm_finds_the_same_call(family: str, case: str) -> None:
    found = rendered(OWN / f"{family}.jinja", case)
    assert found is not None
    generation, text = found
    parser: Any = importlib.import_module(f"mlx_lm.tool_parsers.{PARSERS[family]}")
    body = text.partition(parser.tool_call_start)[2]
    if parser.tool_call_end:
        body = body.rpartition(parser.tool_call_end)[0]
    theirs = parser.parse_tool_call(body, TOOLS)
    call = theirs[0] if isinstance(theirs, list) else theirs
    _, _, ours = turn_of(parse(OWN / f"{family}.jinja", generation, text))
    assert ours == [(call["name"], call["arguments"])]

"""Test that reasoning ends after a budget of tokens."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.demo import DEMO_MODEL
from reconciler.worker.output import OutputFormat, of_tokenizer
from reconciler.worker.output.families.reasoning import REASONING
from reconciler.worker.reasoning_budget import ReasoningBudget, closing_mark, reasons

PROMPT = 3


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(DEMO_MODEL)


def written(tokenizer: Any, text: str, generation: str, budget: int, steps: int) -> list[int]:
    """Tokens of `text` and those after it, for a model that would always write token 7."""
    form = of_tokenizer(tokenizer)
    bound = ReasoningBudget(tokenizer, form, generation, PROMPT, budget)
    tokens = [0] * PROMPT
    sent = tokenizer.encode(text, add_special_tokens=False)
    found: list[int] = []
    for step in range(len(sent) + steps):
        logits = mx.zeros((1, 100 + len(tokenizer)))
        logits[..., sent[step] if step < len(sent) else 7] = 1.0
        token: Any = mx.argmax(bound(mx.array(tokens), logits)).item()
        found.append(token)
        tokens.append(found[-1])
    return found


def test_the_closing_mark_is_forced_when_the_budget_is_used_up(tokenizer: Any) -> None:
    (mark,) = tokenizer.encode("</think>", add_special_tokens=False)
    found = written(tokenizer, "", "<think>\n", 4, 8)
    assert found == [7, 7, 7, 7, mark, 7, 7, 7]
    opened = written(tokenizer, "<think>", "", 4, 6)
    assert opened[1:] == [7, 7, 7, mark, 7, 7]


@pytest.mark.parametrize(
    ("text", "generation"),
    [
        ("", ""),
        ("<think>a</think>", ""),
        ("a</think>", "<think>\n"),
        ('<think>a</think><tool_call>{"name"', ""),
    ],
)
def test_nothing_is_forced_outside_of_reasoning(tokenizer: Any, text: str, generation: str) -> None:
    sent = tokenizer.encode(text, add_special_tokens=False)
    found = written(tokenizer, text, generation, len(sent) + 1, 4)
    assert found == [*sent, 7, 7, 7, 7]


def test_reasoning_is_bounded_only_if_it_has_a_closing_mark() -> None:
    marks = {
        one.name: closing_mark(OutputFormat(one.name, regions=one.regions)) for one in REASONING
    }
    assert marks["think"] == "</think>"
    assert marks["[THINK]"] == "[/THINK]"
    assert marks["thought channel"] == "<channel|>"
    assert marks["response"] == ""
    assert not reasons(OutputFormat())
    assert closing_mark(OutputFormat()) == ""

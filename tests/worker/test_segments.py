"""Test where a prompt is split, so that later prompts can share its beginning."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.worker.chat.rendering import of_source
from reconciler.worker.chat.template import Template
from reconciler.worker.segments import Segmenter, Turn

TEMPLATES = Path(__file__).parents[2].parent / "shared" / "chat-templates"

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING = (
    "{% set last = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
"""Reasoning is kept until the next user turn, as in most templates of reasoning models."""

LOST = 20
"""Number of characters, such as `<think>`, that a turn may share beyond the cached part: their
presence depends on what the client sends back."""

SYSTEM = {"role": "system", "content": "What is asked for is honoured."}
USER = {"role": "user", "content": "What is wanted?"}
ANSWER = {"role": "assistant", "content": "A record.", "reasoning_content": "Hm."}
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": TOOL}]
CALLED = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}
RESULT = {"role": "tool", "content": "42", "name": "f", "tool_call_id": "call00000"}


@pytest.fixture(scope="module")
def tokenizer(models: Path) -> Any:
    return load_tokenizer(models / "tiny/llama")


def found(
    tokenizer: Any, source: str, turns: list[Turn], *, tools: bool = False, **more: Any
) -> list[str]:
    """The texts before the boundaries that are found."""
    render = of_source(tokenizer, source)

    def later(turns: list[Turn]) -> str:
        return render(turns, add_generation_prompt=False)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    text = render(turns, add_generation_prompt=True)
    tokens = encode(text)
    segmenter = Segmenter(encode, **more)
    places = segmenter.boundaries(text, tokens, turns, later, tools=tools, reasons=True)
    return [tokenizer.decode(tokens[:place]) for place in places]


def test_a_prompt_is_split_after_the_system_turns_and_after_the_last_turn(tokenizer: Any) -> None:
    system, last = found(tokenizer, PLAIN, [SYSTEM, USER])
    assert system == "<|system|>What is asked for is honoured.<|end|><|user|>"
    assert last == f"{system}What is wanted?<|end|><|assistant|>"


def test_text_that_a_template_adds_only_for_the_answer_is_excluded(tokenizer: Any) -> None:
    _, last = found(tokenizer, THINKING, [SYSTEM, USER])
    assert last.endswith("What is wanted?<|end|><|assistant|>")


def test_a_tool_result_is_a_turn_like_a_users(tokenizer: Any) -> None:
    *_, user, last = found(tokenizer, THINKING, [SYSTEM, USER, ANSWER, RESULT])
    assert last.endswith("</think>A record.<|end|><|tool|>42<|end|><|assistant|><think>")
    # The next user turn removes the reasoning.
    assert user.endswith("What is wanted?<|end|><|assistant|>")


def test_rewindable_caches_need_only_the_boundary_after_the_system_turns(
    tokenizer: Any,
) -> None:
    assert len(found(tokenizer, PLAIN, [SYSTEM, USER], rewinds=True)) == 1


def test_a_continued_answer_adds_no_boundary(tokenizer: Any) -> None:
    assert len(found(tokenizer, PLAIN, [SYSTEM, USER, ANSWER])) == 1


@pytest.mark.parametrize("content", ["a", " a", "b", "", "\n\na", "é", "<|end|>"])
def test_a_user_turn_is_not_part_of_the_system_turns(tokenizer: Any, content: str) -> None:
    turns = [SYSTEM, USER | {"content": content}]
    first = found(tokenizer, PLAIN, turns)[0]
    assert first == "<|system|>What is asked for is honoured.<|end|><|user|>"


def test_a_template_that_raises_gives_no_boundaries(tokenizer: Any) -> None:
    source = (
        "{% if messages[0].content == 'a' or messages[2] %}{{ raise_exception('') }}{% endif %}x"
    )
    assert found(tokenizer, source, [USER]) == []


def test_boundaries_can_be_found_by_several_threads_at_once() -> None:
    def render(turns: list[Turn]) -> str:
        return "".join(f"<{turn['content']}>" for turn in turns)

    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    segmenter = Segmenter(encode)

    def places(system: str, kind: type[list[int]] = list) -> tuple[int, ...]:
        turns = [SYSTEM | {"content": system}, USER]
        text = render(turns)
        return segmenter.boundaries(
            text, kind(encode(text)), turns, render, tools=False, reasons=False
        )

    class Interrupted(list[int]):
        """Tokens of a prompt, whose reading starts a search in another prompt."""

        def __getitem__(self, place: Any) -> Any:
            places(f"other {len(segmenter._roots)}")
            return list(self)[place]

    first, second = places("a"), places("b")
    assert places("a", Interrupted) == first
    assert places("b", Interrupted) == second


class Published:
    """A published chat template with the tokens of a tiny model, and its own special tokens."""

    has_thinking = True

    def __init__(self, tokenizer: Any, path: Path) -> None:
        self.special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}
        self.encode = partial(tokenizer.encode, add_special_tokens=False)
        source = path.read_text("utf-8")
        self.template = Template(of_source(self, source), source)

    def prompt(self, turns: list[Turn]) -> tuple[list[int], tuple[int, ...]]:
        """Tokens and boundaries of the prompt."""

        def later(turns: list[Turn]) -> str:
            return self.template.render(turns, TOOLS, {"add_generation_prompt": False}).text

        text = self.template.render(turns, TOOLS, {"add_generation_prompt": True}).text
        tokens = list(self.encode(text))
        segmenter = Segmenter(lambda text: list(self.encode(text)))
        return tokens, segmenter.boundaries(text, tokens, turns, later, tools=True, reasons=True)


@pytest.mark.skipif(not TEMPLATES.exists(), reason="published templates are not at hand")
@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_the_next_turn_of_an_agent_begins_with_the_cached_part_of_the_last_one(
    tokenizer: Any, path: Path
) -> None:
    published = Published(tokenizer, path)
    called = {"role": "assistant", "content": "", "tool_calls": [CALLED]}
    turns: list[Turn] = [SYSTEM, USER]
    tokens, places = published.prompt(turns)
    for reasoning in ({}, {"reasoning_content": "So."}):
        turns = [*turns, called | reasoning, RESULT]
        following, later = published.prompt(turns)
        kept = max((place for place in places if tokens[:place] == following[:place]), default=0)
        pairs = enumerate(zip(tokens, following, strict=False))
        shared = next((n for n, (a, b) in pairs if a != b), min(len(tokens), len(following)))
        lost = tokenizer.decode(tokens[kept:shared])
        assert len(lost) <= LOST, lost
        tokens, places = following, later

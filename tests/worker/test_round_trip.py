"""Test that a rendered turn is parsed to the same turn, however it is split."""

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reconciler.worker.output import Delta, OutputFormat, TextParser, detect
from tests.rendering import OWN, PUBLISHED, Template

ENDS = re.compile(
    r"<\|im_end\|>|<\|user\|>|<\|eot\|>|<\|eot_id\|>|<EOS>|<\|END_OF_TURN_TOKEN\|>|<｜end▁of▁sentence｜>|<\|return\|>"
    r"|<\|call\|>|<end_of_turn>|<turn\|>|<\|tool_response>|<\|end_of_text\|>|<seed:eos>"
    r"|\n<\|START_OF_TURN_TOKEN\|>|\n<\|end\|>|<\|end\|>\n|<\|eom_id\|>"
)
"""End tokens of turns, which are not part of the answer's text."""

USER = {"role": "user", "content": "Hi there."}
TEXT = "It rains, and 1 < 2."
THOUGHT = "Let me look.\nIt may rain."
NESTED = {"city": "Paris", "where": {"a": [1, None, True, {"b": "c"}]}, "names": ["x", "y z"]}
UNICODE = {"city": 'ü "q" \\ \n日本 🎉', "names": ["it's", "{}[]()<>"]}
NUMBERS = {"days": 3, "ratio": -2.5, "exact": False, "city": "3"}


def tool(name: str) -> dict[str, Any]:
    """A tool with a parameter of each type."""
    kinds = {
        "city": "string",
        "days": "integer",
        "ratio": "number",
        "exact": "boolean",
        "where": "object",
        "names": "array",
    }
    properties: dict[str, Any] = {
        key: {"type": kind, "description": key} for key, kind in kinds.items()
    }
    properties["where"] |= {"properties": {}, "additionalProperties": {"type": "string"}}
    properties["names"]["items"] = {"type": "string"}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [tool("weather"), tool("time_of")]

Calls = list[tuple[str, dict[str, Any]]]
CASES: dict[str, tuple[str, str, Calls]] = {
    "text": ("", TEXT, []),
    "reasoning": (THOUGHT, TEXT, []),
    "call": ("", "", [("weather", {"city": "Paris"})]),
    "text and call": ("", TEXT, [("weather", {"city": "Paris"})]),
    "reasoning and call": (THOUGHT, "", [("weather", {"city": "Paris"})]),
    "two calls": ("", "", [("weather", {"city": "Paris"}), ("time_of", {"days": 2})]),
    "nested": ("", "", [("weather", NESTED)]),
    "unicode": ("", "", [("weather", UNICODE)]),
    "numbers": ("", "", [("weather", NUMBERS)]),
    "empty": ("", "", [("weather", {})]),
}
"""Reasoning, content and calls of a turn."""


def turns(case: str) -> Iterator[dict[str, Any]]:
    """The turn in the forms that templates require: empty content, arguments as JSON text."""
    reasoning, content, calls = CASES[case]
    for empty in ("", None):
        for text in (False, True):
            turn: dict[str, Any] = {"role": "assistant", "content": content or empty}
            if reasoning:
                turn |= {"reasoning_content": reasoning, "thinking": reasoning}
            if calls:
                turn["tool_calls"] = [
                    {
                        "id": f"abcdefgh{i}",
                        "type": "function",
                        "function": {
                            "name": name,
                            "arguments": json.dumps(given, ensure_ascii=False) if text else given,
                        },
                    }
                    for i, (name, given) in enumerate(calls)
                ]
            yield turn


@cache
def template(path: Path) -> Template:
    return Template(path)


@cache
def form(path: Path) -> OutputFormat:
    return detect(template(path).source, render=template(path))


def rendered(path: Path, case: str) -> tuple[str, str] | None:
    """The generation prompt and the turn as rendered by the template; None if it fails."""
    reasoning, content, calls = CASES[case]
    # gpt-oss's own template writes text before a call as reasoning.
    both = "Cannot pass both content and thinking" in template(path).source and content and calls
    for turn in turns(case):
        try:
            thinks = {"enable_thinking": True, "thinking": True} if reasoning else {}
            whole, common, text = template(path).turn(
                [USER], turn, TOOLS if calls else [], **thinks
            )
        except Exception:  # noqa: BLE001, S112  templates raise what they like
            continue
        text = ENDS.split(text)[0]
        wanted = [content, reasoning, *(name for name, _ in calls)]
        if all(part in text for part in wanted) and not both:
            # A turn may be written without the text that the generation prompt begins.
            return (
                whole
                if reasoning and reasoning not in parse(path, common, text).reasoning
                else common
            ), text
    return None


def parse(path: Path, generation: str, *pieces: str, tools: Any = TOOLS) -> Delta:
    """The parsed turn of an answer that arrives in pieces."""
    parser = TextParser(form(path), generation=generation, tools=tools)
    whole = Delta()
    for i, piece in enumerate(pieces):
        delta = parser.feed(piece, "stop" if i == len(pieces) - 1 else None)
        whole.content += delta.content
        whole.reasoning += delta.reasoning
        whole.calls += delta.calls
    return whole


def splits(text: str) -> Iterator[list[str]]:
    """The text as a whole, in characters, and in random pieces."""
    yield [text]
    yield list(text)
    for seed in range(2):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(text) + 1), min(len(text), 3 + 17 * seed)))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def turn_of(delta: Delta) -> tuple[str, str, Calls]:
    functions = [call["function"] for call in delta.calls]
    calls = [(function["name"], json.loads(function["arguments"])) for function in functions]
    return delta.reasoning, delta.content, calls


NO_REASONING = {"reasoning", "reasoning and call"}
NO_CALLS = {case for case, (_, _, calls) in CASES.items() if calls}
ONLY_TEXT = NO_CALLS | {"reasoning"}
NOT_WRITTEN = {
    "CohereForAI-c4ai-command-r-plus-tool_use": NO_REASONING,
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": {"reasoning", "text and call"},
    "GigaChat3-10B-A1.8B": NO_REASONING | {"two calls"},
    "HuggingFaceTB-SmolLM3-3B": ONLY_TEXT,
    "Kimi-K2-Instruct": NO_REASONING,
    "LFM2-8B-A1B": ONLY_TEXT,
    "MiMo-VL": NO_REASONING,
    "Mistral-Small-3.2-24B-Instruct-2506": NO_REASONING | {"text and call"},
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": NO_REASONING | {"text and call"},
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": NO_REASONING | {"text and call"},
    "Qwen-QwQ-32B": NO_REASONING,
    "Qwen-Qwen2.5-7B-Instruct": NO_REASONING,
    "Qwen3-Coder": NO_REASONING,
    "command_r": NO_REASONING,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": NO_REASONING | {"text and call"},
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": NO_REASONING | {"text and call"},
    "deepseek-ai-DeepSeek-V3.1": NO_REASONING,
    "exaone_deep": NO_CALLS,
    "firefunction": NO_REASONING,
    "fireworks-ai-llama-3-firefunction-v2": NO_REASONING,
    "function_gemma": NO_REASONING,
    "functionary": NO_REASONING,
    "gigachat": NO_REASONING,
    "google-gemma-2-2b-it": ONLY_TEXT,
    "google-gemma-4-31B-it": {"reasoning"},
    "google-gemma-4-31B-it-interleaved": {"reasoning"},
    "ibm-granite-granite-3.3-2B-Instruct": ONLY_TEXT,
    "internlm": NO_REASONING,
    "lfm2": NO_REASONING,
    "llama-cpp-deepseek-r1": ONLY_TEXT,
    "llama-cpp-rwkv-world": ONLY_TEXT,
    "llama3": NO_REASONING | {"text and call"},
    "llama4": NO_REASONING | {"text and call"},
    "meetkai-functionary-medium-v3.2": NO_REASONING,
    "meta-llama-Llama-3.1-8B-Instruct": NO_REASONING | {"text and call", "two calls"},
    "meta-llama-Llama-3.2-3B-Instruct": NO_REASONING | {"text and call", "two calls"},
    "meta-llama-Llama-3.3-70B-Instruct": NO_REASONING | {"text and call", "two calls"},
    "microsoft-Phi-3.5-mini-instruct": ONLY_TEXT,
    "mistral_list": NO_REASONING,
    "mistralai-Mistral-Nemo-Instruct-2407": NO_REASONING | {"text and call"},
    "moonshotai-Kimi-K2": NO_REASONING,
    "muse_spark": NO_REASONING,
    "olmo3": NO_REASONING,
    "openai-gpt-oss-120b": {"text and call", "two calls"},
    "phi4_mini": NO_REASONING,
    "unsloth-Apriel-1.5": NO_REASONING,
    "unsloth-mistral-Devstral-Small-2507": NO_REASONING,
}
"""Cases that a template omits from its text, or refuses."""

PATHS = [*sorted(OWN.glob("*.jinja")), *sorted(PUBLISHED.glob("*.jinja"))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_rendered_turn_is_parsed_to_the_same_turn(path: Path) -> None:
    left_out = set()
    for case, (reasoning, content, calls) in CASES.items():
        found = rendered(path, case)
        if found is None:
            left_out.add(case)
            continue
        generation, text = found
        for pieces in splits(text):
            thought, parsed, called = turn_of(parse(path, generation, *pieces))
            # Without marks around it, whitespace is part of the text.
            words = parsed if form(path).regions and case != "text" else parsed.strip()
            assert (thought, words, called) == (reasoning, content, calls), (case, pieces)
    assert left_out == NOT_WRITTEN.get(path.stem, set())

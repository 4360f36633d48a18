"""Test which tokens end an answer, from the files and from the chat template."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from reconciler.worker.ends import configured, templated
from tests.tiny import new_tokenizer

PUBLISHED = Path(__file__).parents[2].parent / "shared/chat-templates"

MARKS = re.compile(
    r"<[|\uff5c][^<>\n'\"{}]*?[|\uff5c]>|<\|[a-z_]+>|<[a-z_]+\|>|<\|[A-Z_]+\|>|</?s>|\[/?[A-Z_]+\]"
    r"|<end_of_turn>|<start_of_turn>|<seed:eos>|\[gMASK\]|<sop>"
)
"""Text in a template that looks like a special token."""

EXPECTED = {
    "Apriel-1.6-15b-Thinker-fixed": {"<|end|>"},
    "ByteDance-Seed-OSS": {"<seed:eos>"},
    "CohereForAI-c4ai-command-r-plus-tool_use": {"<|END_OF_TURN_TOKEN|>"},
    # It always begins the next turn, so only the token after the answer is known.
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": {"<|END_RESPONSE|>"},
    "GLM-4.6": {"<|user|>", "<|observation|>"},
    "GLM-5.2": {"<|user|>", "<|observation|>"},
    # Its text and its call are two parts of a turn with the same end.
    "GigaChat3-10B-A1.8B": set(),
    "Kimi-K2-Instruct": {"<|im_end|>"},
    "Mistral-Small-3.2-24B-Instruct-2506": {"<eos>"},
    "Qwen-Qwen3-0.6B": {"<|im_end|>"},
    "Qwen3.5-4B": {"<|im_end|>"},
    "deepseek-ai-DeepSeek-V3.1": {"<\uff5cend\u2581of\u2581sentence\uff5c>"},
    "fireworks-ai-llama-3-firefunction-v2": {"<|eot_id|>"},
    "google-gemma-2-2b-it": {"<end_of_turn>"},
    "google-gemma-4-31B-it": {"<turn|>", "<|tool_response>"},
    "ibm-granite-granite-3.3-2B-Instruct": {"<|end_of_text|>"},
    "llama-cpp-rwkv-world": set(),
    "meetkai-functionary-medium-v3.2": {"<|eot_id|>"},
    "meta-llama-Llama-3.1-8B-Instruct": {"<|eot_id|>", "<|eom_id|>"},
    "microsoft-Phi-3.5-mini-instruct": {"<|end|>", "<eos>"},
    "openai-gpt-oss-120b": {"<|return|>", "<|call|>"},
    "stepfun-ai-Step-3.5-Flash": {"<|im_end|>"},
}
"""End of a turn by published template."""

HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "<|start|>assistant{% endif %}"
    "{% if m.tool_calls %} to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary"
    "<|message|>{{ m.tool_calls[0].function.arguments|tojson }}<|call|>"
    "{% else %}<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
OPENED = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function|tojson }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template: str | None, marks: set[str]) -> TokenizerWrapper:
    made = new_tokenizer()
    made.chat_template = template
    made.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
    made.add_tokens(sorted(marks), special_tokens=True)
    return TokenizerWrapper(made)


def names(wrapped: Any, tokens: set[int]) -> set[str]:
    return {wrapped.convert_ids_to_tokens(token) for token in tokens}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_end_of_turns_of_a_published_template_is_detected(name: str) -> None:
    path = PUBLISHED / f"{name}.jinja"
    if not path.is_file():
        pytest.skip("no published templates here")
    text = path.read_text("utf-8")
    wrapped = tokenizer(text, set(MARKS.findall(text)))
    assert names(wrapped, templated(wrapped)) == EXPECTED[name]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (HARMONY, {"<|return|>", "<|call|>"}),
        (OPENED, {"<|user|>", "<|tool|>"}),
        ("{{ messages[0].content }}", set()),
        ("{{ no_such_function() }}", set()),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", set()),
        (None, set()),
    ],
    ids=["harmony", "opened by the next", "no turns", "broken", "plain text", "no template"],
)
def test_a_turn_ends_where_the_template_closes_it(template: str | None, expected: set[str]) -> None:
    marks = {f"<|{word}|>" for word in ("start", "channel", "message", "end", "return", "call")}
    wrapped = tokenizer(template, marks | {"<|user|>", "<|assistant|>", "<|tool|>"})
    assert names(wrapped, templated(wrapped)) == expected


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 5}, None, {5}),
        ({"eos_token_id": [5, 6]}, None, {5, 6}),
        ({}, {"eos_token_id": 7}, {7}),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 8]}, {5, 7, 8}),
        ({"text_config": {"eos_token_id": [9]}}, {}, {9}),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
        ({"eos_token_id": [True, "x", 4]}, {"eos_token_id": 0}, {0, 4}),
    ],
)
def test_end_tokens_are_read_from_all_files(
    tmp_path: Path, config: object, generation: object | None, expected: set[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    assert configured(tmp_path) == expected


def test_a_broken_generation_config_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}', "utf-8")
    (tmp_path / "generation_config.json").write_text("{", "utf-8")
    assert configured(tmp_path) == {5}

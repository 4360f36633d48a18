"""Test what grammars allow around answers, per family of chat templates, without a model."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper

from reconciler.worker.constraints.asked import Constraint
from reconciler.worker.constraints.enforcer import Enforcer, reading_form
from reconciler.worker.output import Delta, OutputFormat, TextParser
from reconciler.worker.output.splitter import Splitter
from reconciler.worker.request import parse
from tests import scripted
from tests.rendering import OWN, PUBLISHED
from tests.worker.test_round_trip import TEXT as WORDS
from tests.worker.test_round_trip import THOUGHT, USER, form, rendered, template

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"enum": [1, 2, 3]},
        "exact": {"type": "boolean"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("weather", "get-time_2")
]
PATHS = [*sorted(OWN.glob("*.jinja")), *sorted(PUBLISHED.glob("*.jinja"))]
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
END = "<end of answer>"

QUICK = ("apriel", "command_r7b", "functionary", "glm", "harmony", "hermes", "llama3")
"""Templates of ours with the traits of the others, which the long tests try."""

each_template = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else (pytest.mark.long,))
        for path in PATHS
    ],
)


@cache
def tokenizer(path: Path, *, special: bool) -> Any:
    """A tokenizer with a token for each byte and for each mark of the template."""
    source = template(path).source
    marks = list(dict.fromkeys([END, *scripted.MARK.findall(source)]))
    made = scripted.byte_tokenizer(marks, source, END, special=special)
    return TokenizerWrapper(made, BPEStreamingDetokenizer)


@cache
def enforcer(path: Path, *, special: bool) -> Enforcer:
    one = tokenizer(path, special=special)
    return Enforcer(one, [one.eos_token_id], len(one.get_vocab()))


def constraint(**keys: Any) -> Constraint:
    body = {"messages": [USER]} | keys
    found = parse(msgspec.json.encode(body), chat=True).constraint
    assert found is not None
    return found


class Writer:
    """Write an answer through a grammar."""

    def __init__(
        self, path: Path, asked: Constraint, generation: str, *, special: bool = True
    ) -> None:
        self.tokenizer, self.form = tokenizer(path, special=special), form(path)
        self.generation, self.asked = generation, asked
        enforce = enforcer(path, special=special).enforce
        self.enforced, self.matcher = enforce(asked, self.form, generation)
        self.text = ""

    def write(self, text: str) -> None:
        """Write a text, every token of which must be allowed."""
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            assert self.matcher.consume_token(token), (self.text, text, self.matcher.get_error())
            self.text += self.tokenizer.decode([token])

    def wander(self, seed: int) -> None:
        """Write allowed tokens at random until the end."""
        chance = random.Random(seed)
        tokens: list[int] = []
        words = np.zeros((len(self.tokenizer.get_vocab()) + 31) // 32, np.int32)
        for _ in range(2000):
            words.fill(0)
            self.matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            assert not self.matcher.is_error(), self.matcher.get_error()
            allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
            begun = self.tokenizer.decode(tokens).strip()
            usable = [t for t in allowed if begun or not self.opens(int(t))] or allowed
            token = int(chance.choice(usable))
            if self.tokenizer.eos_token_id in allowed:
                token = self.tokenizer.eos_token_id
            assert self.matcher.consume_token(token)
            if token == self.tokenizer.eos_token_id:
                self.text += self.tokenizer.decode(tokens)
                return
            tokens.append(token)
        raise AssertionError(self.tokenizer.decode(tokens)[-200:])

    def opens(self, token: int) -> bool:
        """True if the token begins reasoning, which is free and of any length."""
        regions = [r for r in self.form.regions if r.kind == "reasoning"]
        marks = [(r.literal or (r.opens.replace("\\", ""),))[0] for r in regions]
        return any(mark.startswith(self.tokenizer.decode([token])) for mark in marks)

    def read(self) -> Delta:
        """The answer as clients receive it."""
        form: OutputFormat = reading_form(self.enforced, self.form)
        tools = TOOLS if self.asked.calls else []
        return TextParser(form, generation=self.generation, tools=tools).feed(self.text, "stop")


def generation(path: Path) -> str:
    """The text that the template writes at the beginning of an answer."""
    before = template(path)([USER], [], add_generation_prompt=False)
    return template(path)([USER], [], add_generation_prompt=True).removeprefix(before)


def reasoned(writer: Writer) -> None:
    """End the reasoning that the generation prompt began, if it did."""
    if Splitter(writer.form, calls=False, generation=writer.generation).reasoning:
        closes = next(r.closes for r in writer.form.regions if r.kind == "reasoning")
        writer.write(THOUGHT + closes.replace("\\", ""))


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "texts"])
@each_template
def test_a_forced_call_is_read_as_a_call_of_that_tool(path: Path, special: bool) -> None:
    if not special and path.stem in ("harmony", "kimi_k3", "openai-gpt-oss-120b"):
        pytest.skip("reasoning and calls begin with the same special token")
    named = {"type": "function", "function": {"name": "get-time_2"}}
    for seed, choice in enumerate(["required", named]):
        asked = constraint(tools=TOOLS, tool_choice=choice)
        writer = Writer(path, asked, generation(path), special=special)
        reasoned(writer)
        writer.wander(seed)
        answer = writer.read()
        assert (answer.content, len(answer.calls)) == ("", 1), writer.text
        function = answer.calls[0]["function"]
        assert function["name"] in ({"weather", "get-time_2"} if seed == 0 else {"get-time_2"})
        jsonschema.validate(json.loads(function["arguments"]), SCHEMA)


@each_template
def test_an_answer_without_reasoning_matches_the_schema(path: Path) -> None:
    writer = Writer(path, constraint(response_format=FORMAT), generation(path))
    reasoned(writer)
    writer.wander(1)
    answer = writer.read()
    assert answer.calls == []
    jsonschema.validate(json.loads(answer.content), SCHEMA)


@each_template
def test_reasoning_is_free_and_the_answer_after_it_is_constrained(path: Path) -> None:
    found = rendered(path, "reasoning")
    if found is None:
        pytest.skip("the template writes no reasoning")
    before, text = found
    reasons, _, _ = text.partition(WORDS)
    writer = Writer(path, constraint(response_format=FORMAT), before)
    writer.write(reasons)
    copy = writer.matcher.deep_copy()
    assert not copy.consume_tokens(writer.tokenizer.encode(WORDS, add_special_tokens=False))
    writer.wander(2)
    answer = writer.read()
    assert answer.reasoning == THOUGHT
    jsonschema.validate(json.loads(answer.content), SCHEMA)


@each_template
def test_the_grammar_requires_the_familys_own_form_of_calls(path: Path) -> None:
    found = rendered(path, "call")
    # GigaChat's has a mark before it that ends the empty text.
    if found is None or form(path).call_form is None or "gigachat" in path.stem.lower():
        pytest.skip("the template writes no call with JSON arguments")
    before, text = found
    any_object = {"type": "object"}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": any_object}}]
    writer = Writer(path, constraint(tools=tools, tool_choice="required"), before)
    reasoned(writer)
    writer.write(text.rstrip())
    assert writer.matcher.is_accepting()


@pytest.mark.parametrize("text", ["<think>", "</think>", "<tool_call>", "It is </think> so"])
def test_marks_in_a_constrained_text_are_text(text: str) -> None:
    path = OWN / "hermes.jinja"
    writer = Writer(path, constraint(guided_json={"const": {"a": text}}), "", special=False)
    writer.wander(3)
    assert json.loads(writer.read().content) == {"a": text}


def test_text_is_free_around_strict_calls() -> None:
    path = OWN / "hermes.jinja"
    strict = [
        TOOLS[0] | {"function": TOOLS[0]["function"] | {"strict": True}},  # type: ignore[operator]
        TOOLS[1],
    ]
    call = '<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>'
    for special in (True, False):
        writer = Writer(path, constraint(tools=strict), "", special=special)
        writer.write("I look. " + call % '{"city": "Oslo", "days": 1}' + " and then ")
        assert writer.matcher.is_accepting()
        wrong = writer.tokenizer.encode(call % '{"town"', add_special_tokens=False)
        assert not writer.matcher.deep_copy().consume_tokens(wrong)
        other = '<tool_call>\n{"name": "get-time_2", "arguments": {"any": ["thing"]}}\n</tool_call>'
        writer.write(other)
        assert len(writer.read().calls) == 2


def test_an_answer_with_a_schema_may_be_a_call_instead() -> None:
    path = OWN / "hermes.jinja"
    asked = constraint(tools=TOOLS, response_format=FORMAT)
    writer = Writer(path, asked, "")
    writer.write('<tool_call>\n{"name": "weather", "arguments": {"x": 1}}\n</tool_call>')
    assert writer.matcher.is_accepting()
    assert writer.read().calls
    writer = Writer(path, asked, "")
    writer.wander(4)
    jsonschema.validate(json.loads(writer.read().content), SCHEMA)

"""Renders chat templates without a tokenizer."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import SandboxedEnvironment

PUBLISHED = Path(__file__).parents[2] / "shared" / "chat-templates"
"""Published templates, which are not part of this repository."""

OWN = Path(__file__).parent / "templates"
"""One small template per family, written for these tests."""

END = "<EOS>"


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def environment() -> jinja2.Environment:
    """The environment in which transformers renders templates."""
    made = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime(2026, 1, 1, tzinfo=UTC).strftime(form)
    return made


def _common(one: str, other: str) -> str:
    pairs = zip(one, other, strict=False)
    return one[: next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))]


class Template:
    """A chat template."""

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, path.read_text("utf-8")
        self._template = environment().from_string(self.source)

    def __call__(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **more: Any,
    ) -> str:
        """Render the messages."""
        given = {"functions": "[]", "datetime": "now"} | more
        return self._template.render(
            messages=messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            bos_token="<BOS>",
            eos_token=END,
            **given,
        )

    def turn(
        self, before: list[dict[str, Any]], turn: dict[str, Any], tools: Any, **more: Any
    ) -> tuple[str, str, str]:
        """Generation prompt, its part that precedes a finished turn, and the turn's text."""
        base = self(before, tools, **more)
        prompt = self(before, tools, add_generation_prompt=True, **more)
        whole = self([*before, turn], tools, **more)
        common = _common(prompt, whole)
        if common != prompt:
            common = common[: max(common.rfind(c) for c in ">\n]") + 1]
        begin = len(_common(base, common))
        # Some add a turn of instructions: the prompt's last mark is the beginning of the answer.
        text = whole[len(common) :].removeprefix(prompt[prompt.rfind("<") :])
        return prompt[begin:], common[begin:], text

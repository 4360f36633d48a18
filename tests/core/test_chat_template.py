"""Properties read from the text of a chat template."""

from pathlib import Path
from typing import Any

import pytest

from reconciler.core.chat_template import Reasoning, reasoning, takes_tools, uses
from tests.rendering import OWN, PUBLISHED, Template


@pytest.mark.parametrize(
    ("template", "takes"),
    [
        ("{% if tools %}{% endif %}", True),
        ("{%- for tool in tools -%}{% endfor %}", True),
        ("{{ tools | tojson }}", True),
        ("{% if message['tools'] %}{% endif %}", True),
        ("{{ message.get('tools') }}", True),
        ("{{ xml_tools }}", True),
        ("{{ system + functions }}", True),
        ("You have no tools.{{ messages }}", False),
        ("{# tools #}{{ messages }}", False),
        ("{{ 'You have no tools.' }}", False),
        ('{{ "It\'s about \\"tools\\"" }}', False),
        ("{{ message.tool_calls }}", False),
        ("", False),
    ],
)
def test_a_template_supports_tools_if_it_has_a_variable_or_a_key_for_them(
    template: str, takes: bool
) -> None:
    assert takes_tools(template) is takes


@pytest.mark.parametrize(
    ("template", "has"),
    [
        ("{% if thinking %}{% endif %}", True),
        ("{{ x and not thinking }}", True),
        ("{{ message.thinking }}", False),
        ("{{ message['thinking'] }}", False),
        ("{{ enable_thinking }}", False),
        ("thinking", False),
    ],
)
def test_attributes_and_text_are_not_variables(template: str, has: bool) -> None:
    assert uses(template, "thinking") is has


SWITCH = Reasoning(("off", "on"), "on")


@pytest.mark.parametrize(
    ("template", "can"),
    [
        ("{% if enable_thinking is defined and not enable_thinking %}{% endif %}", SWITCH),
        ("{% if enable_thinking is defined and enable_thinking is false %}{% endif %}", SWITCH),
        ("{% if enable_thinking is not defined or enable_thinking %}{% endif %}", SWITCH),
        ("{% set t = enable_thinking if enable_thinking is defined else True %}", SWITCH),
        ("{% if thinking | default(true) %}{% endif %}", SWITCH),
        ("{{ thinking_budget }}", SWITCH),
        ("{% if thinking %}{% endif %}", Reasoning(("off", "on"), "off")),
        ("{{ reasoning_effort }}", Reasoning(("low", "medium", "high"), "medium")),
        (
            "{% if thinking %}{{ reasoning_effort }}{% endif %}",
            Reasoning(("off", "on", "low", "medium", "high"), "off"),
        ),
        ("{{ messages }}<think>", Reasoning(("on",), "on")),
        ("{{ message.thinking }}", None),
        ("{{ messages }}", None),
    ],
)
def test_reasoning_options_of_a_template(template: str, can: Reasoning | None) -> None:
    assert reasoning(template) == can


TEMPLATES = [path for folder in (PUBLISHED, OWN) for path in sorted(folder.glob("*.jinja"))]


@pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_the_reported_default_of_reasoning_matches_the_template(path: Path) -> None:
    """Rendering without a switch equals rendering with the switch at its default."""
    can = reasoning(path.read_text("utf-8"))
    if can is None or "off" not in can.options or path.stem == "llama-cpp-rwkv-world":
        return  # it has a third option: the model decides

    def rendered(**switches: Any) -> str:
        turns = [{"role": "user", "content": "hi"}]
        return Template(path)(turns, add_generation_prompt=True, **switches)

    on, off = (
        rendered(enable_thinking=True, thinking=True),
        rendered(enable_thinking=False, thinking=False, thinking_budget=0),
    )
    assert on != off
    assert rendered() == (on if can.default == "on" else off)


@pytest.mark.parametrize(
    "text",
    [
        "thinking ",
        "{{thinking ",
        "{{",
        "{%",
        "{#",
        "{{'\\'",
        "\"'",
        "{{'\"}}",
        "{{[ ",
        ".get(",
        "{{" + "a" * 50,
    ],
)
def test_a_hostile_template_takes_linear_time(text: str) -> None:
    """Quadratic time would take an hour here."""
    template = text * (400_000 // len(text))
    assert not takes_tools(template)
    assert not takes_tools("{{ '" + template)
    assert not uses(template, "tools")
    assert (reasoning(template) is not None) == text.startswith("{{thinking")

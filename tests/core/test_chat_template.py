"""What the text of a chat template says."""

import pytest

from reconciler.core.chat_template import takes_tools, uses


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
def test_a_template_takes_tools_if_it_has_a_variable_or_a_key_for_them(
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
def test_a_variable_is_no_attribute_and_no_text(template: str, has: bool) -> None:
    assert uses(template, "thinking") is has


@pytest.mark.parametrize(
    "text", ["{{", "{%", "{#", "{{'\\'", "\"'", "{{'\"}}", "{{[ ", ".get(", "{{" + "a" * 50]
)
def test_a_hostile_template_takes_time_in_proportion_to_its_length(text: str) -> None:
    """In proportion to the square of it, this would take hours."""
    template = text * (1_000_000 // len(text))
    assert not takes_tools(template)
    assert not takes_tools("{{ '" + template)
    assert not uses(template, "tools")

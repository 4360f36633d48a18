"""Anthropic's SDK for JavaScript; other tests depend on the one for Python."""

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

ANTHROPIC = Client(
    "Anthropic for Node",
    "npm",
    ("@anthropic-ai/sdk@1.14.0",),
    "messages, streams with reasoning, a tool, `countTokens`, `models.list`",
)


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule("'21' in result", "It is 21 degrees."),
        Rule("'measure' in names", call("measure", city="Paris")),
        Rule("'Think' in asked", "<think>\nA greeting.\n</think>\n\nGood morning."),
    ]
    return acted(shared, "anthropic", rules, otherwise="Hello to you.")


def test_anthropic_for_node(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(ANTHROPIC).program("anthropic.mjs", shared, model)
    assert found["text"] == "Hello to you."
    assert (found["thinking"], found["streamed"]) == ("A greeting.", "Good morning.")
    assert found["kinds"] == [
        "content_block_delta",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_start",
        "message_stop",
    ]
    assert found["stops"] == ["end_turn", "tool_use", "end_turn"]
    assert found["measured"] == ["Paris"]
    assert found["after"] == "It is 21 degrees."
    assert found["count"] > 5
    assert model in found["models"]
    assert found["refused"] == "NotFoundError 404"

"""Clients by Anthropic and Ollama, for Python and Node."""

from typing import Any

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

MESSAGES = "messages, a stream, counted tokens, a tool round trip"
CHATS = "chats, a stream, `generate`, `format`, a tool round trip, the lists"

ANTHROPIC = Client("anthropic for Python", "PyPI", ("anthropic==2.14.0",), MESSAGES)
OLLAMA = Client("ollama for Python", "PyPI", ("ollama==0.6.3",), CHATS)
OLLAMA_NODE = Client("ollama for Node", "npm", ("ollama@0.6.4",), CHATS)

HELLO = "Hello to you."
WARM = "It is 21 degrees in Paris."


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule("'21' in result", WARM),
        Rule("'measure' in names", call("measure", city="Paris")),
        Rule("'Describe' in asked", '{"name": "Paris", "people": 2100000}'),
    ]
    return acted(shared, "providers", rules, otherwise=HELLO)


def check_messages(found: Any) -> None:
    assert found["text"] == found["stream"] == found["final"] == HELLO
    assert found["counted"] > 5
    assert found["called"] == ["measure", {"city": "Paris"}, "tool_use"]
    assert found["after"] == [WARM, "end_turn"]


def check_chats(found: Any, model: str) -> None:
    assert found["text"] == found["stream"] == found["generated"] == HELLO
    assert found["object"] == {"name": "Paris", "people": 2100000}
    assert found["called"] == [["measure", {"city": "Paris"}]]
    assert found["after"] == WARM
    assert any(name.startswith(model) for name in found["listed"])
    assert any(name.startswith(model) for name in found["running"])


def test_anthropic_for_python(clients: Clients, shared: Daemon, model: str) -> None:
    check_messages(clients.installed(ANTHROPIC).program("with_anthropic.py", shared, model))


def test_ollama_for_python(clients: Clients, shared: Daemon, model: str) -> None:
    check_chats(clients.installed(OLLAMA).program("with_ollama.py", shared, model), model)


def test_ollama_for_node(clients: Clients, shared: Daemon, model: str) -> None:
    check_chats(clients.installed(OLLAMA_NODE).program("ollama.mjs", shared, model), model)

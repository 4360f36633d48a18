"""Clients for JavaScript."""

import json

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

OPENAI = Client(
    "openai for Node",
    "npm",
    ("openai@7.57.0",),
    "chat, a stream, `parse` by json_schema, `runTools`; embeddings",
)

AI = Client(
    "AI SDK",
    "npm",
    ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.1.13"),
    "`generateText`, `streamText`, `generateObject`, `streamObject`, a tool; embeddings",
)

LANGCHAIN = Client(
    "LangChain for JavaScript",
    "npm",
    ("@langchain/openai@1.6.0", "@langchain/core@1.4.0", "zod@4.1.13"),
    "structured output by functionCalling, jsonMode and jsonSchema; tools, a stream",
)

CITY = '{"name": "Paris", "people": 2100000}'


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule("'21' in result", "It is 21 degrees in Paris."),
        Rule("'measure' in names", call("measure", city="Paris")),
        Rule("'City' in names", call("City", **json.loads(CITY))),
        Rule("'Describe' in asked", CITY),
    ]
    return acted(shared, "npm", rules, otherwise="Hello to you.")


def test_openai_for_node(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(OPENAI).program("openai.mjs", shared, model)
    assert found["text"] == found["stream"] == "Hello to you."
    assert found["parsed"] == {"name": "Paris", "people": 2100000}
    assert found["measured"] == ["Paris"]
    assert found["after"] == "It is 21 degrees in Paris."


def test_ai_sdk(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(AI).program("ai_sdk.mjs", shared, model)
    assert found["text"] == found["stream"] == "Hello to you."
    for key in ("object", "noSchema", "partial", "streamed"):
        assert found[key] == {"name": "Paris", "people": 2100000}
    assert found["measured"] == ["Paris"]
    assert (found["after"], found["steps"]) == ("It is 21 degrees in Paris.", 2)


def test_langchain_for_javascript(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(LANGCHAIN).program("with_langchain.mjs", shared, model)
    assert found["text"] == found["stream"] == "Hello to you."
    for method in ("functionCalling", "jsonMode", "jsonSchema"):
        assert found[method] == json.loads(CITY)
    assert found["called"] == [["measure", {"city": "Paris"}]]
    assert found["after"] == "It is 21 degrees in Paris."

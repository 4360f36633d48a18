"""Frameworks that support several APIs of one daemon behave the same with each."""

import json

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

SAME = "a text, a stream, structured output and a tool round trip"

LANGCHAIN = Client(
    "langchain-anthropic, langchain-ollama",
    "PyPI",
    ("langchain==1.5.2", "langchain-anthropic==1.7.10", "langchain-ollama==1.1.0"),
    f"{SAME}, by Anthropic's and Ollama's APIs",
)
LLAMA_INDEX = Client(
    "llama-index, Ollama", "PyPI", ("llama-index-llms-ollama==0.11.0",), f"{SAME}, by Ollama's API"
)
AGNO = Client(
    "agno",
    "PyPI",
    ("agno==3.1.10", "openai==3.57.0", "anthropic==2.14.0", "ollama==0.6.3"),
    f"{SAME}, by chat completions, responses, LM Studio's, Anthropic's and Ollama's APIs",
)
HAYSTACK = Client(
    "Haystack",
    "PyPI",
    ("haystack-ai==3.4.1", "anthropic-haystack==8.0.1", "ollama-haystack==7.0.2"),
    f"{SAME}, by chat completions, and Anthropic's and Ollama's APIs",
)
LANGCHAIN_JS = Client(
    "LangChain for Node",
    "npm",
    (
        "langchain@1.5.14",
        "@langchain/core@1.4.0",
        "@langchain/openai@1.5.8",
        "@langchain/anthropic@1.5.11",
        "@langchain/ollama@1.3.0",
        "zod@4.6.7",
    ),
    f"{SAME}, by chat completions, responses, and Anthropic's and Ollama's APIs",
)
AI = Client(
    "AI SDK, other providers",
    "npm",
    (
        "ai@6.0.326",
        "@ai-sdk/openai@3.0.141",
        "@ai-sdk/anthropic@3.0.140",
        "ollama-ai-provider-v2@3.6.0",
        "zod@4.6.7",
    ),
    f"{SAME}, by chat completions, and Anthropic's and Ollama's APIs",
)
AGENTS_JS = Client(
    "openai-agents for Node",
    "npm",
    ("@openai/agents@0.20.0", "zod@4.6.7"),
    f"{SAME}, by chat completions and responses",
)

CITY = {"name": "Paris", "people": 2100000}
HELLO = "Hello to you."
WARM = "It is 21 degrees in Paris."
ALL = {"text": HELLO, "stream": HELLO, "object": CITY, "after": WARM}


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule("'21' in result", WARM),
        Rule("'measure' in names", call("measure", city="Paris")),
        Rule("'City' in names", call("City", **CITY)),
        Rule("'json' in names", call("json", **CITY)),  # the AI SDK's tool for objects
        Rule("'Describe' in asked", json.dumps(CITY)),
    ]
    return acted(shared, "frameworks", rules, otherwise=HELLO)


@pytest.mark.parametrize(
    ("client", "program", "apis"),
    [
        (LANGCHAIN, "many_langchain.py", ["messages", "ollama"]),
        (LLAMA_INDEX, "many_llama_index.py", ["ollama"]),
        (AGNO, "many_agno.py", ["chat", "lmstudio", "responses", "messages", "ollama"]),
        (LANGCHAIN_JS, "many_langchain.mjs", ["chat", "responses", "messages", "ollama"]),
        (AI, "many_ai.mjs", ["chat", "messages", "ollama"]),
        (AGENTS_JS, "many_agents.mjs", ["chat", "responses"]),
    ],
    ids=lambda value: value.name if isinstance(value, Client) else "",
)
def test_a_framework_behaves_the_same_with_each_api(
    clients: Clients, shared: Daemon, model: str, client: Client, program: str, apis: list[str]
) -> None:
    found = clients.installed(client).program(program, shared, model)
    assert found == dict.fromkeys(apis, ALL)


def test_haystack(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(HAYSTACK).program("many_haystack.py", shared, model)
    without = {key: value for key, value in ALL.items() if key != "object"}
    assert found == {"chat": ALL, "messages": without, "ollama": without}

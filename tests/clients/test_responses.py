"""Clients that use the Responses API instead of chat completions."""

import json

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

RUNS = "text, a stream, structured output and a tool round trip, by `/v1/responses`"

OPENAI = Client("openai for Python, responses", "PyPI", ("openai==3.57.0",), RUNS)
AGENTS = Client("openai-agents, responses", "PyPI", ("openai-agents==0.24.0",), RUNS)
LANGCHAIN = Client("langchain-openai, responses", "PyPI", ("langchain-openai==1.7.4",), RUNS)
PYDANTIC_AI = Client("pydantic-ai, responses", "PyPI", ("pydantic-ai-slim[openai]==2.68.0",), RUNS)
NODE = Client("openai for Node, responses", "npm", ("openai@7.57.0",), RUNS)
AI_SDK = Client(
    "ai, responses", "npm", ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4.1.13"), RUNS
)

CITY = {"name": "Paris", "people": 2100000}


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule("'21' in result", "It is 21 degrees in Paris."),
        Rule(
            "'measure' in names", f"<think>\nAsk it.\n</think>\n\n{call('measure', city='Paris')}"
        ),
        Rule("'Describe' in asked", json.dumps(CITY)),
    ]
    return acted(shared, "responses", rules, otherwise="Hello to you.")


@pytest.mark.parametrize(
    ("client", "program"),
    [
        (OPENAI, "responses_openai.py"),
        (AGENTS, "responses_agents.py"),
        (LANGCHAIN, "responses_langchain.py"),
        (PYDANTIC_AI, "responses_pydantic_ai.py"),
        (NODE, "responses_openai.mjs"),
        (AI_SDK, "responses_ai.mjs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_client_works_with_the_responses_api(
    clients: Clients, shared: Daemon, model: str, client: Client, program: str
) -> None:
    assert clients.installed(client).program(program, shared, model) == {
        "text": "Hello to you.",
        "stream": "Hello to you.",
        "parsed": CITY,
        "measured": ["Paris"],
        "after": "It is 21 degrees in Paris.",
    }

"""Python libraries: every method of structured output that they have, tools and plain chat."""

import json

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

OPENAI = Client(
    "openai for Python",
    "PyPI",
    ("openai==3.57.0",),
    "chat, a stream, `parse` by a class, strict and forced tools",
)
LANGCHAIN = Client(
    "langchain-openai",
    "PyPI",
    ("langchain-openai==1.7.4",),
    "structured output by function_calling, json_mode and json_schema; tools, a stream, embeddings",
)
PYDANTIC_AI = Client(
    "pydantic-ai",
    "PyPI",
    ("pydantic-ai-slim[openai]==2.68.0",),
    "tool, native and prompted output; an agent with a tool",
)
INSTRUCTOR = Client(
    "instructor",
    "PyPI",
    ("instructor==1.17.0",),
    "modes TOOLS, JSON, JSON_SCHEMA and MD_JSON",
)
LLAMA_INDEX = Client(
    "llama-index",
    "PyPI",
    ("llama-index-llms-openai-like==0.8.1",),
    "`OpenAILike`: chat, a stream, structured prediction, an agent with a tool",
)
LITELLM = Client(
    "litellm",
    "PyPI",
    ("litellm==1.110.2",),
    "chat, a stream, `response_format` by a class, tools; embeddings",
)
DSPY = Client("DSPy", "PyPI", ("dspy==3.4.1",), "a typed signature by `JSONAdapter`, `ChatAdapter`")

CITY = {"name": "Paris", "people": 2100000}
WARM = "It is 21 degrees in Paris."
HELLO = "Hello to you."
FIELDS = "[[ ## name ## ]]\nParis\n\n[[ ## people ## ]]\n2100000\n\n[[ ## completed ## ]]"


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    """Answers like a model that understands each library's instructions."""
    city = json.dumps(CITY)
    rules = [
        Rule("'21' in result", WARM),
        Rule("'measure' in names", call("measure", city="Paris")),
        Rule("'City' in names", call("City", **CITY)),
        Rule("'final_result' in names", call("final_result", **CITY)),
        # DSPy's own form, which is shown in its instructions.
        Rule("'[[ ## completed ## ]]' in asked", FIELDS),
        Rule("'markdown' in asked or 'codeblock' in asked", f"Here it is:\n```json\n{city}\n```"),
        Rule("'Describe' in asked", city),
    ]
    return acted(shared, "python", rules, otherwise=HELLO)


def test_openai_for_python(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(OPENAI).program("openai_chat.py", shared, model)
    assert found["text"] == found["stream"] == HELLO
    assert found["parsed"] == found["streamed"] == CITY
    assert found["offered"] == found["required"] == found["named"] == {"city": "Paris"}
    assert (found["after"], found["finish_reason"]) == (WARM, "stop")


def test_langchain(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(LANGCHAIN).program("with_langchain.py", shared, model)
    assert found["text"] == found["stream"] == HELLO
    for method in ("function_calling", "json_mode", "json_schema"):
        assert found[method] == CITY
    assert found["called"] == [["measure", {"city": "Paris"}]]
    assert found["after"] == WARM


def test_pydantic_ai(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(PYDANTIC_AI).program("with_pydantic_ai.py", shared, model)
    for way in ("ToolOutput", "NativeOutput", "PromptedOutput"):
        assert found[way] == CITY
    assert (found["measured"], found["after"]) == (["Paris"], WARM)


def test_instructor(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(INSTRUCTOR).program("with_instructor.py", shared, model)
    assert found == dict.fromkeys(("TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON"), CITY)


def test_llama_index(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(LLAMA_INDEX).program("with_llama_index.py", shared, model)
    assert found["text"] == found["stream"] == HELLO
    assert found["predicted"] == CITY
    assert (found["measured"], found["after"]) == (["Paris"], WARM)


def test_litellm(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(LITELLM).program("with_litellm.py", shared, model)
    assert found["text"] == found["stream"] == HELLO
    assert found["parsed"] == CITY
    assert found["called"] == ["measure", {"city": "Paris"}]
    assert found["after"] == WARM


def test_dspy(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(DSPY).program("with_dspy.py", shared, model)
    assert found == {"JSONAdapter": CITY, "ChatAdapter": CITY}

"""Agent frameworks."""

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

OPENAI_AGENTS = Client(
    "openai-agents",
    "PyPI",
    ("openai-agents==0.24.0",),
    "an agent with a tool and an output type, over chat completions",
)
SMOLAGENTS = Client(
    "smolagents",
    "PyPI",
    ("smolagents[openai]==1.26.0",),
    "`ToolCallingAgent` with a tool, to its final answer",
)

WARM = "It is 21 degrees in Paris."


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    typed = '{"city": "Paris", "degrees": 21}'
    rules = [
        Rule("'21' in result and 'Type it' in asked", typed),
        Rule("'21' in result and 'final_answer' in names", call("final_answer", answer=WARM)),
        Rule("'21' in result", WARM),
        # smolagents sends results as user messages.
        Rule(
            "'final_answer' in names and 'Observation' in last.content",
            call("final_answer", answer=WARM),
        ),
        Rule("'measure' in names", call("measure", city="Paris")),
    ]
    return acted(shared, "agents", rules)


def test_openai_agents(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(OPENAI_AGENTS).program("with_openai_agents.py", shared, model)
    assert found["after"] == WARM
    assert found["typed"] == {"city": "Paris", "degrees": 21}
    assert found["measured"] == ["Paris", "Paris"]


def test_smolagents(clients: Clients, shared: Daemon, model: str) -> None:
    found = clients.installed(SMOLAGENTS).program("with_smolagents.py", shared, model)
    assert found["answer"] == WARM
    assert found["measured"] == ["Paris"]

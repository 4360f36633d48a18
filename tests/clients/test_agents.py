"""Frameworks for agents."""

from tests.clients import harness
from tests.clients.harness import Client

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

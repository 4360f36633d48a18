"""Embeddings with clients that other tests use for chat."""

from pathlib import Path

import numpy as np
import openai
import pytest

from tests import embedders
from tests.clients import harness
from tests.clients.harness import Client, Clients
from tests.clients.test_npm import AI
from tests.clients.test_npm import OPENAI as OPENAI_NODE
from tests.clients.test_providers import OLLAMA_NODE
from tests.clients.test_python import LANGCHAIN, LITELLM
from tests.support import Daemon

pytestmark = harness.long

MODEL = "tiny/qwen3-embedding"


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    embedders.make("qwen3", Path(shared.home.models) / MODEL, bare=True)
    return str(shared.load({"model": MODEL})["model_instance_id"])


@pytest.mark.parametrize(
    ("client", "program"),
    [
        (LANGCHAIN, "embed_langchain.py"),
        (LITELLM, "embed_litellm.py"),
        (OPENAI_NODE, "embed_openai.mjs"),
        (AI, "embed_ai.mjs"),
        (OLLAMA_NODE, "embed_ollama.mjs"),
    ],
)
def test_every_client_receives_the_same_vectors(
    clients: Clients, shared: Daemon, model: str, client: Client, program: str
) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as official:
        rows = official.embeddings.create(model=model, input=["a record", "x"]).data
    expected = [row.embedding for row in rows]
    found = clients.installed(client).program(program, shared, model)
    assert np.allclose(found, [*expected, expected[0]], atol=1e-5)

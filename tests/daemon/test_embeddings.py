"""Embeddings through a real daemon, by the official client."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests import embedders, tiny
from tests.support import Daemon, Home

EMBEDDER = "tiny/qwen3-embedding"
CHAT = "tiny/qwen3"
LONGEST = 64
TEXTS = ["a record", "What is asked for is honoured, or the answer says why it is not.", "x"]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = tmp_path_factory.mktemp("models")
    embedders.make("qwen3", models / EMBEDDER, bare=True, max_tokens=LONGEST)
    tiny.make("qwen3", models / CHAT)
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as running:
        running.load({"model": EMBEDDER})
        running.load({"model": CHAT})
        yield running


@pytest.fixture
def client(embedding: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors(answer: Any) -> Any:
    return np.array([row.embedding for row in answer.data])


def refused(client: openai.OpenAI, **body: Any) -> Any:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.post("/embeddings", cast_to=object, body={"model": EMBEDDER} | body)
    return refusal.value.body


def test_vectors_are_what_mlx_lm_computes_of_each_text_alone(
    embedding: Daemon, client: openai.OpenAI
) -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=TEXTS)
    directory = embedding.home.models / EMBEDDER
    expected = np.array([embedders.reference(directory, text) for text in TEXTS])
    assert np.abs(vectors(answer) - expected).max() < 1e-5
    assert [row.index for row in answer.data] == [0, 1, 2]
    tokens = sum(len(embedders.tokens_of(directory, text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert (answer.object, answer.model) == ("list", EMBEDDER)

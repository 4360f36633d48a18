"""Embeddings through a real daemon, by the official client."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ollama
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


def test_ollamas_client_gets_vectors_of_length_1(embedding: Daemon, client: openai.OpenAI) -> None:
    expected = vectors(client.embeddings.create(model=EMBEDDER, input=TEXTS))
    with ollama.Client(embedding.url) as ours:
        several = ours.embed(f"{EMBEDDER}:latest", TEXTS)
        assert np.abs(np.array(several.embeddings) - expected).max() < 1e-5
        assert several.model == f"{EMBEDDER}:latest"
        assert several.prompt_eval_count
        assert several.load_duration
        assert (several.total_duration or 0) >= several.load_duration
        one = ours.embed(EMBEDDER, TEXTS[0])
        assert np.abs(np.array(one.embeddings) - expected[:1]).max() < 1e-5
        older = ours.embeddings(EMBEDDER, TEXTS[0])
        assert np.abs(np.array(older.embedding) - expected[0]).max() < 1e-5
        short = np.array(ours.embed(EMBEDDER, TEXTS[0], dimensions=8).embeddings)
        assert short.shape == (1, 8)
        assert np.isclose(np.linalg.norm(short), 1)


def test_ollamas_texts_are_cut_off_unless_that_is_refused(embedding: Daemon) -> None:
    long = "word " * 500
    with ollama.Client(embedding.url) as ours:
        cut = ours.embed(EMBEDDER, [long, "x"])
        assert len(cut.embeddings) == 2
        with pytest.raises(ollama.ResponseError, match=r"input\[0\].*64") as caught:
            ours.embed(EMBEDDER, [long, "x"], truncate=False)
        assert caught.value.status_code == 400
        for model, text, words in ((CHAT, "x", "generates text"), ("nobody/knows", "x", "nobody")):
            with pytest.raises(ollama.ResponseError, match=words):
                ours.embed(model, text)
        with pytest.raises(ollama.ResponseError, match="makes embeddings"):
            ours.chat(EMBEDDER, [{"role": "user", "content": "x"}])


def test_ollamas_clients_see_what_an_embedding_model_is(embedding: Daemon) -> None:
    with ollama.Client(embedding.url) as ours:
        assert ours.show(EMBEDDER).capabilities == ["embedding"]
        assert ours.embed(EMBEDDER, "").embeddings == []  # that loads it
    for body in ({"input": 5}, {"input": [5]}, {"input": "x", "keep_alive": "x"}):
        status, answer = embedding.request("POST", "/api/embed", {"model": EMBEDDER} | body)
        assert (status, list(answer)) == (400, ["error"])
        assert list(body)[-1] in answer["error"]
    body = {"model": EMBEDDER, "prompt": "x", "inputs": 1}
    _, answer = embedding.request("POST", "/api/embeddings", body)
    assert answer["warnings"] == ["inputs: unknown key, ignored"]


def test_lm_studios_older_route_gives_openais_vectors(embedding: Daemon) -> None:
    body = {"model": EMBEDDER, "input": TEXTS[0]}
    answers = [embedding.request("POST", f"{v}/embeddings", body)[1] for v in ("/v1", "/api/v0")]
    assert answers[0] == answers[1]
    rows = {row["id"]: row["type"] for row in embedding.get("/api/v0/models")["data"]}
    assert rows == {EMBEDDER: "embeddings", CHAT: "llm"}

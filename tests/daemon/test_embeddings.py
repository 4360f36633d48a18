"""Embeddings from a real daemon, with the official client."""

import base64
import struct
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ollama
import openai
import pytest

from reconciler.core.reranker import QWEN3
from tests import embedders, tiny
from tests.support import Daemon, Home

EMBEDDER = "tiny/qwen3-embedding"
CHAT = "tiny/qwen3"
RERANKER = "tiny/qwen3-reranker"
LONGEST = 128
TEXTS = ["a record", "What is asked for is honoured, or the answer says why it is not.", "x"]


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = tmp_path_factory.mktemp("models")
    embedders.make("qwen3", models / EMBEDDER, bare=True, max_tokens=LONGEST)
    tiny.make("qwen3", models / CHAT)
    embedders.make_reranker(models / RERANKER)
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as running:
        running.load({"model": EMBEDDER})
        running.load({"model": CHAT})
        running.load({"model": RERANKER})
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


def test_vectors_equal_those_that_mlx_lm_computes_for_each_text_alone(
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


def test_ollamas_client_receives_vectors_of_length_1(
    embedding: Daemon, client: openai.OpenAI
) -> None:
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


def test_texts_from_ollamas_client_are_truncated_unless_it_forbids_that(embedding: Daemon) -> None:
    long = "word " * 500
    with ollama.Client(embedding.url) as ours:
        cut = ours.embed(EMBEDDER, [long, "x"])
        assert len(cut.embeddings) == 2
        with pytest.raises(ollama.ResponseError, match=rf"input\[0\].*{LONGEST}") as caught:
            ours.embed(EMBEDDER, [long, "x"], truncate=False)
        assert caught.value.status_code == 400
        for model, text, words in ((CHAT, "x", "generates text"), ("nobody/knows", "x", "nobody")):
            with pytest.raises(ollama.ResponseError, match=words):
                ours.embed(model, text)
        with pytest.raises(ollama.ResponseError, match="makes embeddings"):
            ours.chat(EMBEDDER, [{"role": "user", "content": "x"}])


def test_ollamas_clients_recognize_an_embedding_model(embedding: Daemon) -> None:
    with ollama.Client(embedding.url) as ours:
        assert ours.show(EMBEDDER).capabilities == ["embedding"]
        assert ours.embed(EMBEDDER, "").embeddings == []  # this loads it
    wrong: list[dict[str, Any]]
    wrong = [{"input": 5}, {"input": [5]}, {"input": "x", "keep_alive": "x"}]
    for body in wrong:
        status, answer = embedding.request("POST", "/api/embed", {"model": EMBEDDER} | body)
        assert (status, list(answer)) == (400, ["error"])
        assert list(body)[-1] in answer["error"]
    unknown = {"model": EMBEDDER, "prompt": "x", "inputs": 1}
    _, answer = embedding.request("POST", "/api/embeddings", unknown)
    assert answer["warnings"] == ["inputs: unknown key, ignored"]


def test_lm_studios_older_route_returns_openais_vectors(embedding: Daemon) -> None:
    body = {"model": EMBEDDER, "input": TEXTS[0]}
    answers = [embedding.request("POST", f"{v}/embeddings", body)[1] for v in ("/v1", "/api/v0")]
    assert answers[0] == answers[1]
    rows = {row["id"]: row["type"] for row in embedding.get("/api/v0/models")["data"]}
    assert rows == {EMBEDDER: "embeddings", CHAT: "llm", RERANKER: "llm"}


def test_base64_and_json_encode_the_same_numbers(embedding: Daemon) -> None:
    body = {"model": EMBEDDER, "input": TEXTS}
    _, plain = embedding.request("POST", "/v1/embeddings", body)
    _, packed = embedding.request("POST", "/v1/embeddings", body | {"encoding_format": "base64"})
    for one, other in zip(plain["data"], packed["data"], strict=True):
        assert one["object"] == "embedding"
        data = base64.b64decode(other["embedding"])
        assert list(struct.unpack(f"<{len(data) // 4}f", data)) == one["embedding"]


def test_shorter_vectors_are_truncated_and_normalized_to_length_1(client: openai.OpenAI) -> None:
    whole = vectors(client.embeddings.create(model=EMBEDDER, input=TEXTS))
    short = vectors(client.embeddings.create(model=EMBEDDER, input=TEXTS, dimensions=16))
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    expected = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    assert np.allclose(short, expected, atol=1e-6)
    body = {"normalize": False, "dimensions": 16}
    raw = vectors(client.embeddings.create(model=EMBEDDER, input=TEXTS, extra_body=body))
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), short, atol=1e-6)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=0.1)


def test_prompts_of_the_checkpoint_are_applied(embedding: Daemon, client: openai.OpenAI) -> None:
    directory = embedding.home.models / EMBEDDER
    expected = embedders.reference(directory, embedders.QUERY + "what?")
    for keys in ({"prompt_name": "query"}, {"input_type": "query"}, {"prompt": embedders.QUERY}):
        answer = client.embeddings.create(model=EMBEDDER, input="what?", extra_body=keys)
        assert np.abs(vectors(answer)[0] - expected).max() < 1e-5


def test_token_ids_are_used_unchanged(embedding: Daemon, client: openai.OpenAI) -> None:
    tokens = [embedders.tokens_of(embedding.home.models / EMBEDDER, text) for text in TEXTS]
    by_ids = vectors(client.embeddings.create(model=EMBEDDER, input=tokens))
    by_text = vectors(client.embeddings.create(model=EMBEDDER, input=TEXTS))
    assert np.allclose(by_ids, by_text, atol=1e-6)
    one = vectors(client.embeddings.create(model=EMBEDDER, input=tokens[1]))
    assert np.allclose(one[0], by_text[1], atol=1e-6)


def test_an_invalid_request_is_400_in_openais_form(client: openai.OpenAI) -> None:
    assert refused(client)["code"] == "missing_required_parameter"
    assert refused(client, input=["a", ""])["param"] == "input[1]"
    assert refused(client, input=["a", [100_000]])["param"] == "input[1]"
    assert refused(client, input="a", dimensions=65)["param"] == "dimensions"
    assert refused(client, input="a", messages=[{}])["code"] == "unsupported_parameter"
    long = refused(client, input=["a", "word " * 200])
    assert (long["code"], long["param"]) == ("context_length_exceeded", "input[1]")
    assert f"the longest text of this instance has {LONGEST}" in long["message"]
    answer = client.embeddings.create(
        model=EMBEDDER, input="word " * 200, extra_body={"truncate": True}
    )
    assert answer.usage.prompt_tokens == LONGEST


def test_a_model_of_the_other_kind_is_refused_with_an_explanation(client: openai.OpenAI) -> None:
    wrong = refused(client, input="a", model=CHAT)
    assert (wrong["code"], wrong["param"]) == ("unsupported_model", "model")
    assert "makes no embeddings" in wrong["message"]
    message: Any = {"role": "user", "content": "Hello"}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as chat:
            client.chat.completions.create(model=EMBEDDER, messages=[message], stream=stream)
        assert "generates no text: use POST /v1/embeddings" in str(chat.value)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=EMBEDDER, prompt="Hello")


def test_model_lists_include_the_type_of_each_model(embedding: Daemon) -> None:
    rows = {row["key"]: row["type"] for row in embedding.get("/api/v1/models")["models"]}
    assert rows == {EMBEDDER: "embedding", CHAT: "llm", RERANKER: "llm"}
    for name, type_ in rows.items():
        assert embedding.load({"model": name})["type"] == type_
        assert embedding.get(f"/api/v1/records/{name}")["status"]["type"] == type_


def test_the_longest_text_equals_the_context_length(
    embedding: Daemon, client: openai.OpenAI
) -> None:
    """The publisher's limit by default, which can be raised to the model's own maximum."""
    config = embedding.load({"model": EMBEDDER})["config"]
    assert config["context_length"] == LONGEST
    asked = {"model": EMBEDDER, "instance_id": "long", "context_length": 1000}
    assert embedding.load(asked)["config"]["context_length"] == 1000
    text = "word " * 150
    answer = client.embeddings.create(model="long", input=text)
    expected = embedders.reference(embedding.home.models / EMBEDDER, text)
    assert np.abs(vectors(answer)[0] - expected).max() < 1e-5
    embedding.unload("long")


def test_an_embedding_model_reserves_no_kv_cache_for_conversations(embedding: Daemon) -> None:
    needs = {}
    for model in (EMBEDDER, CHAT):
        body = {"model": model, "eval_batch_size": 512}
        _, needs[model] = embedding.request("POST", "/api/v1/models/estimate", body)
    assert needs[EMBEDDER]["kv_cache_bytes"] <= needs[CHAT]["kv_cache_bytes"] / 4


def test_request_defaults_have_no_effect_and_cause_a_warning(embedding: Daemon) -> None:
    asked = {"model": EMBEDDER, "instance_id": "warm", "defaults": {"temperature": 0.5}}
    embedding.load(asked)
    (warning,) = embedding.get("/api/v1/records/warm")["status"]["warnings"]
    assert warning["key"] == "defaults.temperature"
    assert "generates no text" in warning["reason"]
    embedding.unload("warm")


def test_many_clients_embed_many_texts_during_generation(client: openai.OpenAI) -> None:
    texts = [f"record {n} " + "and another " * (n % 4) for n in range(120)]
    message: Any = {"role": "user", "content": "Hello"}
    with ThreadPoolExecutor(9) as pool:
        chat = pool.submit(
            client.chat.completions.create, model=CHAT, messages=[message], max_tokens=64
        )
        answers = pool.map(
            lambda part: client.embeddings.create(model=EMBEDDER, input=part),
            [texts[n : n + 15] for n in range(0, 120, 15)],
        )
        together = np.concatenate([vectors(answer) for answer in answers])
        assert chat.result().usage is not None
    whole = vectors(client.embeddings.create(model=EMBEDDER, input=texts))
    assert np.allclose(together, whole, atol=1e-5)


def test_tokens_are_counted_in_the_metrics(embedding: Daemon, client: openai.OpenAI) -> None:
    def counted() -> float:
        with urllib.request.urlopen(f"{embedding.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (one for one in lines if f'"{EMBEDDER}",kind="prompt"' in one)
        return float(line.split()[-1])

    before = counted()
    used = client.embeddings.create(model=EMBEDDER, input=TEXTS).usage.prompt_tokens
    assert counted() - before == used


# -- reranking -----------------------------------------------------------------------------

QUESTION = "what is loaded?"
DOCUMENTS = ["a record", "an instance is what is loaded", "x", "the loop compares"] * 4


def prompt_of(document: str) -> list[str]:
    parts = {"instruction": QWEN3.instruction, "query": QUESTION, "document": document}
    return [QWEN3.before, QWEN3.pair.format(**parts), QWEN3.after]


@pytest.mark.parametrize("path", ["/v1/rerank", pytest.param("/v2/rerank", marks=pytest.mark.long)])
def test_documents_are_ranked_by_the_scores_that_mlx_lm_computes_for_each_alone(
    path: str, embedding: Daemon
) -> None:
    body = {"model": RERANKER, "query": QUESTION, "documents": DOCUMENTS}
    status, answer = embedding.request("POST", path, body)
    assert status == 200
    directory = embedding.home.models / RERANKER
    expected = {d: embedders.relevance(directory, prompt_of(d)) for d in set(DOCUMENTS)}
    results = answer["results"]
    assert sorted(row["index"] for row in results) == list(range(len(DOCUMENTS)))
    for row in results:
        document = row["document"]["text"]
        assert document == DOCUMENTS[row["index"]]
        assert row["relevance_score"] == pytest.approx(expected[document], abs=1e-5)
    scores = [row["relevance_score"] for row in results]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]
    assert answer["usage"]["total_tokens"] > 400
    _, few = embedding.request("POST", path, body | {"top_n": 3, "return_documents": False})
    assert len(few["results"]) == 3
    assert few["results"][0].keys() == {"index", "relevance_score"}


def test_a_model_that_is_not_a_reranker_is_refused_with_an_explanation(embedding: Daemon) -> None:
    for model in (CHAT, EMBEDDER):
        body = {"model": model, "query": "q", "documents": ["a"]}
        status, answer = embedding.request("POST", "/v1/rerank", body)
        assert (status, answer["error"]["code"]) == (400, "unsupported_model")
    body = {"model": RERANKER, "query": "q", "documents": ["a", ""]}
    status, answer = embedding.request("POST", "/v1/rerank", body)
    assert (status, answer["error"]["param"]) == (400, "documents[1]")

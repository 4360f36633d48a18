"""Ollama's API of a real daemon, with its official client and plain HTTP."""

import json
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import ollama
import pydantic
import pytest

from reconciler.demo.questions import WEATHER
from tests.conftest import QUESTIONS
from tests.support import Daemon

FRANCE: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]

BEGIN = datetime.now(UTC)

GREEDY = {"temperature": 0}


class Capital(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=12)
    inhabitants: int = pydantic.Field(ge=0, le=99)


@pytest.fixture
def ollamas(taught: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(taught.url) as client:
        yield client


def is_complete(answer: ollama.ChatResponse | ollama.GenerateResponse) -> None:
    """Check that a finished response has every statistic and that they add up."""
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.prompt_eval_count > 1  # type: ignore[operator]
    assert answer.eval_count > 1  # type: ignore[operator]
    parts = answer.load_duration, answer.prompt_eval_duration, answer.eval_duration
    assert all(part >= 1 for part in parts)  # type: ignore[operator]
    assert answer.total_duration >= max(parts)  # type: ignore[type-var, operator]
    made = datetime.fromisoformat(answer.created_at or "")
    assert BEGIN <= made <= datetime.now(UTC)


def test_ollamas_client_chats(ollamas: ollama.Client) -> None:
    for name in (QUESTIONS, f"{QUESTIONS}:latest"):
        answer = ollamas.chat(name, FRANCE, options=GREEDY, think=False)
        assert answer.message.role == "assistant"
        assert answer.message.content == "The capital of France is Paris."
        assert answer.model == name
        is_complete(answer)


def test_ollamas_client_streams(ollamas: ollama.Client) -> None:
    pieces = list(ollamas.chat(QUESTIONS, FRANCE, stream=True, options=GREEDY, think="low"))
    assert len(pieces) > 5
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    text = "".join(piece.message.content or "" for piece in pieces)
    thought = "".join(piece.message.thinking or "" for piece in pieces)
    assert (thought, text) == ("The capital of France.", "The capital of France is Paris.")
    is_complete(pieces[-1])
    assert pieces[-1].message.content == ""


async def test_ollamas_asynchronous_client_chats_and_streams(taught: Daemon) -> None:
    async with ollama.AsyncClient(taught.url) as client:
        whole = await client.chat(QUESTIONS, FRANCE, options=GREEDY)
        pieces = await client.chat(QUESTIONS, FRANCE, stream=True, options=GREEDY)
        text = "".join([piece.message.content or "" async for piece in pieces])
        assert text == whole.message.content
        assert (await client.list()).models
        answer = await client.generate(QUESTIONS, "What is the capital of Italy?", options=GREEDY)
        assert answer.response == "The capital of Italy is Rome."


def test_ollamas_client_generates(ollamas: ollama.Client) -> None:
    question = "What is the capital of Italy?"
    answer = ollamas.generate(QUESTIONS, question, options=GREEDY, think=False)
    assert answer.response == "The capital of Italy is Rome."
    is_complete(answer)
    pieces = list(ollamas.generate(QUESTIONS, question, stream=True, options=GREEDY, think=False))
    assert "".join(piece.response or "" for piece in pieces) == answer.response
    is_complete(pieces[-1])


def test_a_raw_prompt_bypasses_the_chat_template(ollamas: ollama.Client) -> None:
    question = "What is the capital of Italy?"
    raw = ollamas.generate(QUESTIONS, question, raw=True, options=GREEDY | {"num_predict": 5})
    asked = ollamas.generate(QUESTIONS, question, options=GREEDY)
    assert raw.prompt_eval_count < asked.prompt_eval_count  # type: ignore[operator]
    assert (raw.done_reason, raw.eval_count) == ("length", 5)


def test_a_response_follows_its_format(ollamas: ollama.Client) -> None:
    schema = Capital.model_json_schema()
    answer = ollamas.chat(QUESTIONS, FRANCE, format=schema, options=GREEDY)
    Capital.model_validate_json(answer.message.content or "")
    text = ollamas.generate(QUESTIONS, "Anything", format="json", options={"num_predict": 200})
    if text.done_reason == "stop":
        assert isinstance(json.loads(text.response or ""), dict)
    with pytest.raises(ollama.ResponseError, match=r"format.*uniqueItems") as caught:
        ollamas.chat(QUESTIONS, FRANCE, format={"type": "array", "uniqueItems": True})
    assert caught.value.status_code == 400


def test_a_tool_round_trip_works(ollamas: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    for stream in (False, True):
        asked: Any = ollamas.chat(
            QUESTIONS, messages, tools=[WEATHER], stream=stream, options=GREEDY
        )
        answers = list(asked) if stream else [asked]
        calls = [call for answer in answers for call in answer.message.tool_calls or []]
        (call,) = calls
        assert call.function.name == WEATHER["function"]["name"]
        assert call.function.arguments == {"city": "Paris"}
    messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    messages.append({"role": "tool", "tool_name": call.function.name, "content": "rainy"})
    text = ollamas.chat(QUESTIONS, messages, tools=[WEATHER], options=GREEDY).message.content
    assert text == "It is rainy in Paris."


def test_log_probabilities_are_returned(ollamas: ollama.Client) -> None:
    answer = ollamas.chat(QUESTIONS, FRANCE, logprobs=True, top_logprobs=2, options=GREEDY)
    assert answer.logprobs
    first = answer.logprobs[0]
    assert first.top_logprobs
    assert len(first.top_logprobs) == 2
    assert first.top_logprobs[0].token == first.token
    assert math.exp(first.logprob) <= 1
    raw = ollamas.generate(QUESTIONS, "x", raw=True, logprobs=True, options={"num_predict": 3})
    assert len(raw.logprobs or []) == 3


def test_ollamas_client_lists_and_shows_models(ollamas: ollama.Client) -> None:
    listed = {model.model: model for model in ollamas.list().models}
    model = listed[f"{QUESTIONS}:latest"]
    assert model.details
    assert model.size
    assert model.modified_at
    assert len(model.digest or "") == 64
    shown = ollamas.show(f"{QUESTIONS}:latest")
    assert set(shown.capabilities or []) == {"completion", "tools", "thinking"}
    assert shown.modelinfo
    assert shown.modelinfo["general.architecture"] == model.details.family
    assert "{%" in (shown.template or "")
    assert shown.modified_at == model.modified_at
    (loaded,) = [m for m in ollamas.ps().models if m.model == f"{QUESTIONS}:latest"]
    assert loaded.digest == model.digest
    assert loaded.size
    assert loaded.size_vram in (0, loaded.size)
    assert loaded.context_length
    assert loaded.expires_at
    assert loaded.expires_at.year > datetime.now(UTC).year + 50
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        ollamas.show("nobody/knows")
    assert caught.value.status_code == 404


def test_an_empty_prompt_loads_and_keep_alive_0_unloads(
    shared: Daemon, ollamas: ollama.Client
) -> None:
    name = "tiny/llama-4bit"
    loaded = ollamas.generate(name, "", keep_alive="5m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    record = shared.get(f"/api/v1/records/{name}")
    assert record["spec"]["idle_ttl_seconds"] == 300
    (running,) = [model for model in ollamas.ps().models if model.model == f"{name}:latest"]
    ends = running.expires_at or BEGIN
    assert BEGIN < ends <= datetime.now(UTC) + timedelta(minutes=5)
    assert ollamas.generate(name, "", keep_alive=1e300).done_reason == "load"  # it is loaded
    gone = ollamas.chat(name, [], keep_alive=0)
    assert gone.done_reason == "unload"
    assert name not in shared.loaded()
    assert ollamas.generate(name, "", keep_alive=0).done_reason == "unload"  # it is loaded
    with pytest.raises(ollama.ResponseError, match="not found"):
        ollamas.generate("nobody/knows", "", keep_alive=0)


def test_a_model_declared_by_a_manifest_is_not_unloaded(
    shared: Daemon, ollamas: ollama.Client
) -> None:
    shared.home.write("declared.yaml", name="declared", model="tiny/llama")
    shared.until(lambda: shared.request("GET", "/api/v1/records/declared")[0] == 200)
    shared.ready("declared")
    assert "declared:latest" in {model.model for model in ollamas.list().models}
    with pytest.raises(ollama.ResponseError, match=r"declared\.yaml:1.*suspend") as caught:
        ollamas.generate("declared", "", keep_alive=0)
    assert caught.value.status_code == 409
    assert "declared" in shared.loaded()


def test_errors_have_ollamas_form(taught: Daemon) -> None:
    cases: list[tuple[str, Any, int, str]] = [
        ("/api/chat", {}, 400, "model"),
        ("/api/chat", b"{", 400, "not JSON"),
        ("/api/chat", {"model": QUESTIONS, "messages": "x"}, 400, "messages"),
        ("/api/chat", {"model": QUESTIONS, "messages": FRANCE, "think": "a lot"}, 400, "think"),
        ("/api/chat", {"model": QUESTIONS, "messages": FRANCE, "format": "xml"}, 400, "format"),
        ("/api/chat", {"model": QUESTIONS, "messages": FRANCE, "keep_alive": "x"}, 400, "5m"),
        ("/api/chat", {"model": "tiny/mamba", "messages": FRANCE}, 404, "tiny/mamba"),
        ("/api/chat", {"model": "nobody/knows", "messages": []}, 404, "nobody/knows"),
        (
            "/api/chat",
            {"model": QUESTIONS, "messages": [FRANCE[0] | {"images": ["aGk="]}]},
            400,
            "messages[0].images",
        ),
        (
            "/api/generate",
            {"model": QUESTIONS, "prompt": "x", "options": {"temperature": 5}},
            400,
            "options.temperature",
        ),
        (
            "/api/generate",
            {"model": QUESTIONS, "prompt": "x", "options": {"mirostat": 2}},
            400,
            "options.mirostat",
        ),
        ("/api/generate", {"model": QUESTIONS, "prompt": "x", "context": [1]}, 400, "context"),
        ("/api/generate", {"model": QUESTIONS, "prompt": "x", "images": ["eA=="]}, 400, "images"),
        ("/api/generate", {"model": QUESTIONS, "prompt": "x", "suffix": "y"}, 400, "suffix"),
        ("/api/pull", {"model": "../x"}, 400, "model"),
        ("/api/copy", {"source": "a", "destination": "b"}, 400, "/api/copy"),
        ("/api/create", {"model": "a"}, 400, "/api/create"),
        ("/api/push", {"model": "a"}, 400, "/api/push"),
        ("/api/blobs/sha256:1", {}, 400, "/api/blobs"),
        ("/api/nothing", {}, 404, "/api/nothing"),
        ("/api/tags", {}, 405, "/api/tags"),
    ]
    for path, body, status, words in cases:
        got, answer = taught.request("POST", path, body)
        assert (got, list(answer)) == (status, ["error"]), (path, body, answer)
        assert words in answer["error"], (path, body, answer)


def test_ignored_keys_are_listed_in_the_first_line(taught: Daemon) -> None:
    keys = {"model": QUESTIONS, "messages": FRANCE, "mesages": 1, "stream": False}
    options = {"num_ctx": 123, "num_gpu": 1, "nonsense": 2, "num_predict": 3}
    _, answer = taught.request("POST", "/api/chat", keys | {"options": options})
    assert [words.partition(":")[0] for words in answer["warnings"]] == [
        "options.num_ctx",
        "mesages",
        "options.nonsense",
    ]
    with taught.stream("/api/chat", keys | {"options": options, "stream": True}) as reply:
        assert reply.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in reply]
    assert [("warnings" in line) for line in lines] == [True] + [False] * (len(lines) - 1)
    length = taught.get(f"/api/v1/records/{QUESTIONS}")["status"]["config"]["context_length"]
    keys["options"] = {"num_ctx": length, "num_predict": 3}
    del keys["mesages"]
    assert "warnings" not in taught.request("POST", "/api/chat", keys)[1]


def test_ollamas_clients_detect_a_running_server(shared: Daemon) -> None:
    import urllib.request

    for method in ("GET", "HEAD"):
        request = urllib.request.Request(f"{shared.url}/", method=method)
        with urllib.request.urlopen(request) as reply:
            text = reply.read().decode()
            assert reply.status == 200
            assert "is running" in text or method == "HEAD"
    version = shared.get("/api/version")["version"]
    assert [int(part) for part in version.split(".")] > [0, 6, 4]  # Copilot's minimum


def test_a_model_without_a_chat_template_receives_the_prompt_unchanged(
    shared: Daemon, ollamas: ollama.Client
) -> None:
    name = "tiny/untemplated"
    path = shared.home.lm_studio / "models" / name
    shutil.copytree(shared.home.models / "tiny/llama", path)
    for file in path.glob("*.jinja"):
        file.unlink()
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    config.pop("chat_template", None)
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    shared.load({"model": name})
    short = {"num_predict": 3, "temperature": 0}
    raw = ollamas.generate(name, "a b c", raw=True, options=short)
    plain = ollamas.generate(name, "a b c", think=True, options=short)
    assert plain.response == raw.response
    assert plain.prompt_eval_count == raw.prompt_eval_count
    assert ollamas.show(name).template == ""
    body = {"model": name, "prompt": "a", "system": "Be kind.", "stream": False, "options": short}
    _, answer = shared.request("POST", "/api/generate", body)
    assert answer["warnings"] == ["system: has no effect on a model without a chat template"]
    with pytest.raises(ollama.ResponseError, match="no chat template"):
        ollamas.chat(name, FRANCE)

"""Loaded models answer OpenAI's requests, with a real daemon and real MLX."""

import http.client
import json
import os
import signal
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import openai
import pytest
from mlx_lm import generate
from mlx_lm.utils import load as load_with_mlx_lm

from reconciler.demo.questions import WEATHER
from reconciler.worker import overrides
from tests.conftest import CHECKPOINTS
from tests.support import Daemon, copied

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PROMPTS = ([5, 6, 7, 8, 9], [20, 21, 22], [9] * 40, [100, 3, 50, 7, 7, 7, 8])


@pytest.fixture(scope="module")
def llama(shared: Daemon) -> Daemon:
    shared.load({"model": "tiny/llama", "context_length": 512})
    return shared


@pytest.fixture
def client(llama: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def text(daemon: Daemon, model: str, prompt: Any, **more: Any) -> Any:
    """A greedy text completion, which must succeed."""
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | more
    status, answer = daemon.request("POST", TEXT, body)
    assert status == 200, answer
    return answer["choices"][0]


def messages(content: str = "What is wanted?") -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_greedy_output_equals_mlx_lms_alone_and_in_a_batch(
    shared: Daemon, models: Path, model: str
) -> None:
    assert mx.fast.scaled_dot_product_attention is not overrides._attend, "mlx_lm's own, not ours"
    network, tokenizer = load_with_mlx_lm(str(models / model))
    expected = [generate(network, tokenizer, list(p), max_tokens=12) for p in PROMPTS]
    shared.load({"model": model, "context_length": 512})

    def ask(prompt: list[int]) -> str:
        return str(text(shared, model, prompt, max_tokens=12)["text"])

    assert [ask(prompt) for prompt in PROMPTS] == expected
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(ask, PROMPTS)) == expected


def test_the_official_client_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny/llama", messages=messages(), temperature=0, max_tokens=8
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert "tiny/llama" in [m.id for m in client.models.list()]


def test_streams_beside_each_other_arrive_whole_and_in_order(client: openai.OpenAI) -> None:
    def ask(length: int, *, stream: bool) -> str:
        asked: dict[str, Any] = {"prompt": PROMPTS[length % 4], "max_tokens": length}
        asked |= {"model": "tiny/llama", "temperature": 0}
        if not stream:
            return str(client.completions.create(**asked).choices[0].text)
        chunks = client.completions.create(**asked, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    lengths = [3, 30, 7, 50, 12, 1, 21, 40]  # the longest goes on alone
    expected = [ask(length, stream=False) for length in lengths]
    with ThreadPoolExecutor(len(lengths)) as pool:
        assert list(pool.map(lambda length: ask(length, stream=True), lengths)) == expected


def test_a_stream_sends_the_same_text_in_chunks(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny/llama", "messages": messages(), "temperature": 0}
    whole = client.chat.completions.create(**asked, max_tokens=20)
    stream = client.chat.completions.create(
        **asked, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    deltas = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(d or "" for d in deltas) == whole.choices[0].message.content
    assert len(deltas) > 2
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_stream_reports_prompt_progress_on_request(llama: Daemon) -> None:
    llama.load({"model": "tiny/llama", "instance_id": "reading", "eval_batch_size": 16})
    prompt = [7 + n for n in range(100)]
    body = {"model": "reading", "prompt": prompt, "temperature": 0, "max_tokens": 4}
    plain = list(streamed(llama, body | {"prompt": [5, *prompt[1:]]}))
    assert not any("progress" in chunk for chunk in plain)
    chunks = list(streamed(llama, body | {"stream_options": {"include_progress": True}}))
    progresses = [chunk["progress"] for chunk in chunks if "progress" in chunk]
    assert [chunk["choices"] for chunk in chunks if "progress" in chunk] == [[]] * len(progresses)
    read = [progress["prompt_tokens_read"] for progress in progresses]
    assert len(read) >= 6
    assert read == sorted(set(read))
    assert 0 < read[0] <= 16
    assert read[-1] in (99, 100)
    assert {progress["prompt_tokens"] for progress in progresses} == {100}
    kinds = ["progress" in chunk for chunk in chunks]
    assert kinds == sorted(kinds, reverse=True), "all of it before the answer"
    texts = [c["choices"][0]["text"] for c in chunks if c["choices"]]
    _, whole = llama.request("POST", TEXT, body)
    assert "".join(texts) == whole["choices"][0]["text"]


def test_max_tokens_is_limited_to_the_rest_of_the_context(llama: Daemon) -> None:
    body = {"model": "tiny/llama", "prompt": [7] * 500, "max_tokens": 1000, "temperature": 0}
    _, answer = llama.request("POST", TEXT, body)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (500, 12)
    assert usage["total_tokens"] == 512
    assert answer["choices"][0]["finish_reason"] == "length"
    status, answer = llama.request("POST", TEXT, body | {"prompt": [7] * 512})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    for number in ("512 tokens", "is 512"):
        assert number in answer["error"]["message"]


def test_a_completion_ends_before_a_stop_sequence(llama: Daemon) -> None:
    whole = text(llama, "tiny/llama", PROMPTS[0], max_tokens=30)["text"]
    stop = whole[6:9]
    for stream in (False, True):
        body = {"model": "tiny/llama", "prompt": PROMPTS[0], "temperature": 0, "max_tokens": 30}
        body |= {"stop": ["never this", stop], "stream": stream}
        if stream:
            pieces = [c["choices"][0] for c in streamed(llama, body)]
            written = "".join(p["text"] for p in pieces)
            reason = pieces[-1]["finish_reason"]
        else:
            _, answer = llama.request("POST", TEXT, body)
            written, reason = answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]
        assert written == whole[: whole.index(stop)]
        assert reason == "stop"


def test_a_seed_gives_the_same_response_alone_and_in_a_batch(llama: Daemon) -> None:
    def ask(seed: int) -> str:
        more = {"temperature": 1.5, "seed": seed, "max_tokens": 12}
        return str(text(llama, "tiny/llama", PROMPTS[0], **more)["text"])

    alone = [ask(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == alone


def streamed(daemon: Daemon, body: Any, path: str = TEXT) -> Iterator[Any]:
    """Data of a stream, up to `[DONE]`."""
    with stream(daemon, body, path) as reply:
        for line in reply:
            data = line.decode().strip().removeprefix("data: ")
            if data == "[DONE]":
                return
            if data and not data.startswith(":"):
                yield json.loads(data)


def stream(daemon: Daemon, body: Any, path: str = TEXT) -> http.client.HTTPResponse:
    return daemon.stream(path, body | {"stream": True})


def usage(daemon: Daemon, path: str = TEXT, **keys: Any) -> tuple[int, str]:
    """Completion tokens and finish reason of a response."""
    asked = {"prompt": [7]} if path == TEXT else {"messages": messages()}
    body = {"model": "tiny/llama", "temperature": 0, "max_tokens": 9} | asked | keys
    status, answer = daemon.request("POST", path, body)
    assert status == 200, answer
    return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]


def test_stop_keys_of_a_request_take_effect(llama: Daemon) -> None:
    end, other = {"logit_bias": {"0": 100}}, {"logit_bias": {"5": 100}}
    for path in (TEXT, CHAT):
        assert usage(llama, path, **end) == (1, "stop")
        assert usage(llama, path, **end, ignore_eos=True) == (9, "length")
        assert usage(llama, path, **end, min_tokens=3) == (4, "stop")
        assert usage(llama, path, **other) == (9, "length")
        assert usage(llama, path, **other, stop_token_ids=[5]) == (1, "stop")
        assert usage(llama, path, **other, stop_token_ids=[5], ignore_eos=True) == (1, "stop")


def test_keys_of_other_servers_take_effect(llama: Daemon) -> None:
    assert usage(llama, max_tokens=None, num_predict=3.0) == (3, "length")
    plain, penalised = (
        text(llama, "tiny/llama", PROMPTS[0], max_tokens=40, **more)["text"]
        for more in ({}, {"repeat_penalty": 5, "repeat_last_n": -1})
    )
    assert plain != penalised
    assert text(llama, "tiny/llama", "What is") == text(llama, "tiny/llama", ["What is"])
    assert text(llama, "tiny/llama", [PROMPTS[0]]) == text(llama, "tiny/llama", PROMPTS[0])


def test_ignored_keys_are_listed_in_the_response(llama: Daemon) -> None:
    body: dict[str, Any] = {"model": "tiny/llama", "messages": messages(), "max_tokens": 2}
    assert "warnings" not in llama.request("POST", CHAT, body | {"user": "me"})[1]
    body |= {"temprature": 1, "reasoning_effort": "low"}
    _, answer = llama.request("POST", CHAT, body)
    assert [warning.partition(":")[0] for warning in answer["warnings"]] == [
        "temprature",
        "reasoning_effort",
    ]
    first, *rest = streamed(llama, body, CHAT)
    assert first["warnings"] == answer["warnings"]
    assert [chunk for chunk in rest if "warnings" in chunk] == []


def test_tools_reach_a_model_whose_template_does_not_support_them(llama: Daemon) -> None:
    llama.load({"model": "tiny/llama", "instance_id": "wide"})
    body: dict[str, Any] = {"model": "wide", "messages": messages(), "max_tokens": 2}
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    loop = [
        *messages(),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "rainy"},
    ]
    lengths = []
    for more in ({}, {"tools": [WEATHER]}, {"tools": [WEATHER], "messages": loop}):
        status, answer = llama.request("POST", CHAT, body | {"tool_choice": "auto"} | more)
        assert status == 200, answer
        lengths.append(answer["usage"]["prompt_tokens"])
    assert lengths == sorted(set(lengths))


def test_a_prompt_equal_to_an_earlier_one_is_answered_again(llama: Daemon) -> None:
    answers = [text(llama, "tiny/llama", PROMPTS[0]) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_a_request_uses_the_instance_of_that_name_else_the_oldest_of_that_model(
    shared: Daemon,
) -> None:
    shared.unload("tiny/qwen3")
    for name in ("first", "second"):
        shared.load({"model": "tiny/qwen3", "instance_id": f"route-{name}"})
    for model, instance in (("route-second", "route-second"), ("tiny/qwen3", "route-first")):
        with stream(shared, {"model": model, "prompt": [5], "max_tokens": 1}) as reply:
            assert reply.headers["X-Reconciler-Instance"] == instance
            reply.read()


def test_a_client_that_disconnects_frees_its_place(llama: Daemon) -> None:
    llama.load({"model": "tiny/llama", "instance_id": "leaves"})
    body = {"model": "leaves", "prompt": [7], "max_tokens": 30_000, "temperature": 0}
    for path, streams in ((TEXT, True), (TEXT, False)):
        reply = None
        if streams:
            reply = stream(llama, body, path)
            reply.readline()
            reply.close()
        else:
            address = urllib.parse.urlsplit(llama.url)
            connection = http.client.HTTPConnection(address.hostname or "", address.port)
            connection.request("POST", path, json.dumps(body))
            connection.close()
    # Unloading waits for running requests: it would take its full 30 seconds if one still ran.
    logged = len(llama.log())
    assert llama.unload("leaves")[0] == 200
    assert "requests did not finish in time" not in llama.log()[logged:]


def test_a_worker_that_dies_ends_the_stream_with_an_error_and_is_restarted(shared: Daemon) -> None:
    name = "tiny/llama-4bit"
    shared.load({"model": name})
    before = shared.ready(name)["status"]["restarts"]
    pid = shared.ready(name)["status"]["worker_pid"]
    asked = {"model": name, "prompt": [7], "temperature": 0, "max_tokens": 30_000}
    chunks = streamed(shared, asked)
    next(chunks)
    os.kill(pid, signal.SIGKILL)
    *_, last = chunks
    assert last["error"]["code"] == "worker_killed"
    shared.eventually(name, lambda r: r["status"]["restarts"] == before + 1)
    shared.ready(name)
    assert text(shared, name, PROMPTS[0])["text"]


def test_a_generation_in_progress_keeps_its_original_settings(shared: Daemon) -> None:
    body = {"model": "tiny/llama", "instance_id": "changing"}
    shared.load(body | {"context_length": 400})
    asked = {"model": "changing", "prompt": [7], "temperature": 0, "max_tokens": 1000}
    chunks = streamed(shared, asked | {"stream_options": {"include_usage": True}})
    next(chunks)
    changing = threading.Thread(target=shared.load, args=(body | {"context_length": 50},))
    changing.start()
    *_, last = chunks
    changing.join()
    assert last["usage"]["total_tokens"] == 400
    _, answer = shared.request("POST", TEXT, asked)
    assert answer["usage"]["total_tokens"] == 50


SETTINGS: dict[str, dict[str, Any]] = {
    "many": {"num_experts": 4, "context_length": 300, "eval_batch_size": 16},
    "few": {
        "num_experts": 1,
        "context_length": 200,
        "eval_batch_size": 64,
        "flash_attention": False,
    },
}


@pytest.mark.parametrize(
    "model", ["openai/gpt-oss-20b", pytest.param("tiny/deepseek_v3", marks=pytest.mark.long)]
)
def test_instances_with_shared_weights_answer_as_in_separate_processes(
    shared: Daemon, model: str
) -> None:
    copied(shared, f"alone/{model.partition('/')[2]}", model)

    def load(name: str) -> int:
        body = {"model": f"alone/{model.partition('/')[2]}", "instance_id": name}
        shared.load(body | {"config": SETTINGS[name]})
        return int(shared.get(f"/api/v1/records/{name}")["status"]["worker_pid"])

    def ask(name: str) -> str:
        return str(text(shared, name, PROMPTS[2], max_tokens=20)["text"])

    alone, pids = {}, set()
    for name in SETTINGS:
        pids.add(load(name))
        alone[name] = ask(name)
        shared.unload(name)  # ends its process
    assert len(pids) == 2
    assert len({load(name) for name in SETTINGS}) == 1
    names = [*SETTINGS] * 3
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, names)) == [alone[name] for name in names]

"""Failed requests are answered with an error, and the next one works: a real daemon, real MLX."""

import json
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.daemon.test_serving import CHAT, PROMPTS, TEXT, messages, stream, text
from tests.support import PATIENCE, Daemon, copied


@pytest.fixture(scope="module")
def llama(shared: Daemon) -> Daemon:
    shared.load({"model": "tiny/llama", "context_length": 512})
    return shared


@pytest.fixture
def client(llama: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_raises_the_right_error_classes(client: openai.OpenAI) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="no/such", messages=messages())
    assert missing.value.code == "model_not_loaded"
    assert "POST /api/v1/models/load" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        ask(model="tiny/llama", messages=messages("long " * 1000))
    assert long.value.code == "context_length_exceeded"
    assert "512" in long.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(model="tiny/llama", messages=messages(), temperature=3)
    assert wrong.value.param == "temperature"


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": [10**6]}, "prompt"),
        (TEXT, {"prompt": [-1]}, "prompt"),
        (TEXT, {}, "prompt"),
        (TEXT, {"prompt": "x", "stop": [5]}, "stop[0]"),
        (TEXT, {"prompt": "x", "logit_bias": {"99999": 5}}, "logit_bias"),
        (TEXT, {"prompt": "x", "logit_bias": {"-1": 5}}, "logit_bias"),
        (TEXT, {"prompt": "x", "temperature": -1}, "temperature"),
        (TEXT, {"prompt": "x", "top_p": 7}, "top_p"),
        (TEXT, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        (TEXT, {"prompt": "x", "n": 9}, "n"),
        (TEXT, {"prompt": "x", "n": 2, "best_of": 4}, "best_of"),
        (TEXT, {"prompt": "x", "logprobs": 30}, "logprobs"),
        (TEXT, {"prompt": "x", "suffix": "y"}, "suffix"),
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "stranger", "content": "x"}]}, "messages[0].role"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages",
        ),
        (CHAT, {"messages": messages(), "tools": [{}]}, "tools[0]"),
        (CHAT, {"messages": messages(), "tool_choice": "required"}, "tool_choice"),
        (TEXT, {"prompt": ["x", 5]}, "prompt"),
        (TEXT, {"prompt": ["x", ""]}, "prompt"),
        (TEXT, {"prompt": ["x"] * 9, "n": 8}, "prompt"),
        (TEXT, {"prompt": "x", "echo": True, "suffix": "y"}, "echo"),
        (CHAT, {"messages": messages(), "echo": True}, "echo"),
        (CHAT, {"messages": messages(), "suffix": "y"}, "suffix"),
        (TEXT, {"prompt": "x", "grammar": "root ::= 'x'"}, "grammar"),
        (TEXT, {"prompt": "x", "ttl": 0}, "ttl"),
        (CHAT, {"messages": messages(), "response_format": {"type": "json"}}, "response_format"),
        (
            CHAT,
            {"messages": messages(), "chat_template_kwargs": {"messages": 5}},
            "chat_template_kwargs",
        ),
    ],
)
def test_an_unanswerable_request_is_an_error_and_the_next_one_works(
    llama: Daemon, path: str, more: Any, param: str
) -> None:
    status, answer = llama.request("POST", path, {"model": "tiny/llama"} | more)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert text(llama, "tiny/llama", PROMPTS[0])["text"]


@pytest.mark.parametrize(
    ("name", "template"), [("growing", "{{ 'x' * 99999999999 }}"), ("broken", "{% for")]
)
def test_a_hostile_template_fails_only_its_own_requests(
    shared: Daemon, name: str, template: str
) -> None:
    model = f"hostile/{name}"
    (copied(shared, model) / "chat_template.jinja").write_text(template, "utf-8")
    shared.load({"model": model})
    status, answer = shared.request("POST", CHAT, {"model": model, "messages": messages()})
    assert (status, answer["error"]["param"]) == (400, "messages")
    assert "chat template" in answer["error"]["message"]
    assert text(shared, model, PROMPTS[0])["text"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"prompt": "x"}', b'{"model": 5}'])
def test_a_body_without_a_model_is_an_error_in_the_standard_form(
    llama: Daemon, body: bytes
) -> None:
    status, answer = llama.request("POST", TEXT, body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request")


def test_a_top_k_above_the_vocabulary_spoils_no_later_request(llama: Daemon) -> None:
    body = {"model": "tiny/llama", "prompt": PROMPTS[0], "max_tokens": 3}
    for top_k in (319, 320, 10**6):
        llama.request("POST", TEXT, body | {"top_k": top_k})
        for more in ({}, {"top_p": 0.9}, {"seed": 1, "top_k": 5}):
            status, answer = llama.request("POST", TEXT, body | more)
            assert status == 200, answer


@pytest.mark.long
def test_requests_beyond_the_queue_limit_are_refused_with_retry_after(llama: Daemon) -> None:
    llama.load({"model": "tiny/llama", "instance_id": "crowded", "context_length": 30_000})
    body = {"model": "crowded", "prompt": [7], "max_tokens": 29_000, "ignore_eos": True}
    refused = threading.Event()

    def ask(_: int) -> tuple[int, str | None, str | None]:
        """Hold a place until some request has been refused."""
        try:
            with stream(llama, body) as reply:
                refused.wait(PATIENCE)
                return reply.status, None, None
        except urllib.error.HTTPError as error:
            refused.set()
            with error:
                code = json.load(error)["error"]["code"]
                return error.code, code, error.headers["Retry-After"]

    with ThreadPoolExecutor(200) as pool:
        answers = set(pool.map(ask, range(200)))
    llama.unload("crowded")
    assert answers == {(200, None, None), (503, "overloaded", "1")}

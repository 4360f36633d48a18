"""Checkpoints as publishers ship them, in the daemon; tests/worker/test_parity.py has more."""

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from mlx_lm import load, stream_generate

from benchmarks.daemon import mlx_lm_server
from tests import counting
from tests.support import Daemon, Home
from tests.tiny import write
from tests.worker.test_experts import QWEN
from tests.worker.test_parity import only_processors_template, sparse_vocabulary


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon with two checkpoints for this module."""
    root = tmp_path_factory.mktemp("parity")
    path = counting.make(models / "tiny/llama", root / "models/x/counting")
    counting.configure(path, "generation_config.json", eos_token_id=[15, 99999])
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    counting.configure(path, rope_scaling=yarn)
    only_processors_template(path)
    sparse_vocabulary(path)
    write(QWEN | {"mlp_only_layers": [0, 1]}, root / "models/x/dense")
    with Daemon(Home(root / "home", models), "--models", str(root / "models")) as running:
        yield running


def test_a_response_ends_at_the_tokens_of_generation_config(daemon: Daemon) -> None:
    path = daemon.home.root.parent / "models/x/counting"
    model, tokenizer = load(str(path))[:2]
    theirs = list(stream_generate(model, tokenizer, [10], max_tokens=9))
    daemon.load({"model": "x/counting"})
    body = {"model": "x/counting", "prompt": [10], "temperature": 0, "max_tokens": 9}
    status, answer = daemon.request("POST", "/v1/completions", body)
    assert status == 200, answer
    assert answer["choices"][0]["finish_reason"] == theirs[-1].finish_reason == "stop"
    assert answer["usage"]["completion_tokens"] == len(theirs) == 5
    text = "".join(response.text for response in theirs)
    assert answer["choices"][0]["text"] in text


@pytest.mark.long
async def test_responses_equal_those_of_mlx_lm_server(daemon: Daemon) -> None:
    path = daemon.home.root.parent / "models/x/counting"
    tokenizer = load(str(path))[1]
    body = {"prompt": tokenizer.decode([10]), "temperature": 0, "max_tokens": 9}
    async with (
        mlx_lm_server(path) as server,
        aiohttp.request("POST", f"{server}/v1/completions", json=body) as reply,
    ):
        theirs = await reply.json()
    daemon.load({"model": "x/counting"})
    _, ours = daemon.request("POST", "/v1/completions", body | {"model": "x/counting"})
    for key in ("text", "finish_reason"):
        assert ours["choices"][0][key] == theirs["choices"][0][key]
    assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"] == 5
    assert ours["choices"][0]["finish_reason"] == "stop"


def test_a_token_of_a_sparse_vocabulary_is_accepted_in_a_prompt(daemon: Daemon) -> None:
    daemon.load({"model": "x/counting"})
    body = {"model": "x/counting", "temperature": 0, "max_tokens": 1}
    for token, expected in ((319, 200), (320, 400)):
        status, answer = daemon.request("POST", "/v1/completions", body | {"prompt": [token]})
        assert status == expected, answer


def test_the_chat_template_of_a_processor_is_used(daemon: Daemon) -> None:
    daemon.load({"model": "x/counting"})
    messages = [{"role": "user", "content": "a"}]
    body = {"model": "x/counting", "messages": messages, "max_tokens": 1}
    status, answer = daemon.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer


def test_a_context_extended_by_rope_scaling_is_accepted(daemon: Daemon) -> None:
    body = {"model": "x/counting", "instance_id": "long"}
    answer = daemon.load(body | {"config": {"context_length": 131072}})
    assert answer["config"]["context_length"] == 131072
    longer = body | {"config": {"context_length": 131073}}
    status, refused = daemon.request("POST", "/api/v1/models/load", longer)
    assert status == 400
    assert "the model's maximum of 131072 tokens" in refused["error"]["message"]


@pytest.mark.parametrize("asked", [0, 2])
def test_num_experts_has_no_effect_on_a_model_without_expert_layers(
    daemon: Daemon, asked: int
) -> None:
    body = {"model": "x/dense", "instance_id": f"dense-{asked}", "config": {"num_experts": asked}}
    answer = daemon.load(body)
    assert answer["config"]["num_experts"] == 0
    (warning,) = answer["warnings"]
    assert (warning["key"], warning["asked"]) == ("num_experts", asked)
    assert "no layer of the model routes to experts" in warning["reason"]

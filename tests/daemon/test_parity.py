"""Checkpoints as publishers ship them, through the daemon; tests/worker/test_parity.py has more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlx_lm import load, stream_generate

from tests import counting
from tests.support import Daemon, Home
from tests.tiny import build
from tests.worker.test_experts import QWEN
from tests.worker.test_parity import only_processors_template, sparse_vocabulary


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon with two checkpoints of this module's own."""
    root = tmp_path_factory.mktemp("parity")
    path = counting.make(models / "tiny/llama", root / "models/x/counting")
    counting.configure(path, "generation_config.json", eos_token_id=[15, 99999])
    only_processors_template(path)
    sparse_vocabulary(path)
    build(QWEN | {"mlp_only_layers": [0, 1]}, root / "models/x/dense")
    with Daemon(Home(root / "home", models), "--models", str(root / "models")) as running:
        yield running


def test_an_answer_ends_where_generation_config_says(daemon: Daemon) -> None:
    path = daemon.home.root.parent / "models/x/counting"
    model, tokenizer = load(str(path))[:2]
    theirs = list(stream_generate(model, tokenizer, [10], max_tokens=9))
    daemon.load({"model": "x/counting"})
    body = {"model": "x/counting", "prompt": [10], "temperature": 0, "max_tokens": 9}
    status, answer = daemon.request("POST", "/v1/completions", body)
    assert status == 200, answer
    assert answer["choices"][0]["finish_reason"] == theirs[-1].finish_reason == "stop"
    assert answer["usage"]["completion_tokens"] == len(theirs) == 5
    said = "".join(response.text for response in theirs)
    assert answer["choices"][0]["text"] in said


def test_a_token_of_a_sparse_vocabulary_can_be_prompted(daemon: Daemon) -> None:
    daemon.load({"model": "x/counting"})
    body = {"model": "x/counting", "temperature": 0, "max_tokens": 1}
    for token, expected in ((319, 200), (320, 400)):
        status, answer = daemon.request("POST", "/v1/completions", body | {"prompt": [token]})
        assert status == expected, answer


def test_the_template_of_a_processor_renders_a_chat(daemon: Daemon) -> None:
    daemon.load({"model": "x/counting"})
    messages = [{"role": "user", "content": "a"}]
    body = {"model": "x/counting", "messages": messages, "max_tokens": 1}
    status, answer = daemon.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer


@pytest.mark.parametrize("asked", [0, 2])
def test_experts_that_no_layer_has_are_no_obstacle(daemon: Daemon, asked: int) -> None:
    body = {"model": "x/dense", "instance_id": f"dense-{asked}", "config": {"num_experts": asked}}
    answer = daemon.load(body)
    assert answer["config"]["num_experts"] == 0
    (warning,) = answer["warnings"]
    assert (warning["key"], warning["asked"]) == ("num_experts", asked)
    assert "no layer of the model chooses among experts" in warning["reason"]

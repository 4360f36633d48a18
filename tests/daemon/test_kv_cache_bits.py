"""The setting `kv_cache_bits` from every door to the memory and the answers of a real model."""

from pathlib import Path
from typing import Any

import pytest

from reconciler.core.footprint import KV_BITS
from tests.conftest import QUESTIONS
from tests.support import Daemon, Home, conditions

LOAD = "/api/v1/models/load"
QUESTION = {"role": "user", "content": "What is the capital of Japan?"}

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {{name: quantized}}
spec: {{model: {model}, config: {{context_length: 2048, kv_cache_bits: {bits}}}}}
"""


def answer(daemon: Daemon, name: str) -> str:
    body = {"model": name, "messages": [QUESTION], "temperature": 0, "max_tokens": 30}
    status, reply = daemon.request("POST", "/v1/chat/completions", body)
    assert status == 200, reply
    return str(reply["choices"][0]["message"]["content"])


def test_a_quantised_cache_takes_less_memory_and_answers_the_same(taught: Daemon) -> None:
    body = {"model": QUESTIONS, "instance_id": "bits", "context_length": 2048}
    before = taught.load(body)
    assert before["config"]["kv_cache_bits"] is None
    pid = taught.get("/api/v1/records/bits")["status"]["worker_pid"]
    plain, estimates = answer(taught, "bits"), []
    for bits in (None, *KV_BITS):
        sent = body | {"config": {"kv_cache_bits": bits}, "echo_load_config": True}
        loaded = taught.load(sent)
        assert (loaded["config"]["kv_cache_bits"], loaded["warnings"][1:]) == (bits, [])
        assert loaded["load_config"] == loaded["config"]
        record = taught.get("/api/v1/records/bits")
        assert record["status"]["worker_pid"] == pid
        assert answer(taught, "bits") == plain
        status, estimated = taught.request("POST", "/api/v1/models/estimate", sent)
        assert status == 200, estimated
        estimates.append(estimated["kv_cache_bytes"])
    assert record["spec"]["config"] == {"context_length": 2048, "kv_cache_bits": 4}
    assert record["status"]["loaded_by"] == "Reconfigure"
    full, eight, four = estimates
    assert (eight / full, four / full) == (72 / 256, 40 / 256)  # of float32
    assert taught.load(body | {"kv_cache_bits": 4})["joined"]
    assert taught.load(body)["joined"]
    assert taught.load(body | {"kv_cache_bits": None})["config"]["kv_cache_bits"] is None


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("openai/gpt-oss-20b", "keeps a sliding window, which mlx-lm cannot quantize"),
        ("tiny/qwen3", "attention heads are 16 wide"),
    ],
)
def test_a_model_whose_cache_cannot_be_quantised_is_refused_and_stays_as_it_was(
    shared: Daemon, model: str, words: str
) -> None:
    body = {"model": model, "instance_id": "kept"}
    before = shared.load(body | {"context_length": 300})["config"]
    status, reply = shared.request("POST", LOAD, body | {"kv_cache_bits": 8})
    error = reply["error"]
    assert (status, error["code"], error["param"]) == (400, "impossible_setting", "kv_cache_bits")
    assert words in error["message"]
    record = shared.ready("kept")
    assert (record["status"]["config"], record["spec"]["config"]) == (
        before,
        {"context_length": 300},
    )


def test_a_model_without_a_kv_cache_warns(shared: Daemon) -> None:
    loaded = shared.load({"model": "tiny/mamba", "kv_cache_bits": 8})
    assert loaded["config"]["kv_cache_bits"] is None
    (warning,) = [w for w in loaded["warnings"] if w["key"] == "kv_cache_bits"]
    assert (warning["asked"], "no KV cache" in warning["reason"]) == (8, True)
    shared.unload("tiny/mamba")


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (5, "must be one of 8, 4, null"),
        (0, "must be one of 8, 4, null"),
        ("8", "must be integer or null"),
        (True, "must be integer or null"),
    ],
)
def test_other_numbers_of_bits_are_refused_with_the_choices(
    shared: Daemon, bits: Any, words: str
) -> None:
    status, reply = shared.request("POST", LOAD, {"model": QUESTIONS, "kv_cache_bits": bits})
    assert (status, reply["error"]["param"]) == (400, "kv_cache_bits")
    assert words in reply["error"]["message"]


def test_a_manifest_sets_the_bits_and_its_mistake_keeps_what_is_loaded(taught: Daemon) -> None:
    file = taught.home.manifests / "quantized.yaml"
    file.write_text(MANIFEST.format(model=QUESTIONS, bits=8), "utf-8")
    record = taught.ready("quantized")
    assert record["status"]["config"]["kv_cache_bits"] == 8
    file.write_text(MANIFEST.format(model="tiny/qwen3", bits=8), "utf-8")
    record = taught.eventually("quantized", lambda r: conditions(r)["Stalled"] == "True")
    (stalled,) = [c for c in record["status"]["conditions"] if c["type"] == "Stalled"]
    assert "kv_cache_bits 8: this model's attention heads" in stalled["message"]
    assert record["status"]["config"]["kv_cache_bits"] == 8
    assert answer(taught, "quantized")


@pytest.mark.long
def test_a_quantised_instance_and_its_prompts_on_disk_come_back_after_a_restart(
    tmp_path: Path, models: Path
) -> None:
    answers = []
    with Daemon(Home(tmp_path / "home", models)) as daemon:
        daemon.load({"model": QUESTIONS, "kv_cache_bits": 4})
        for _ in range(2):
            prompt = {"model": QUESTIONS, "prompt": [7 + n % 300 for n in range(1000)]}
            body = prompt | {"temperature": 0, "max_tokens": 8}
            status, reply = daemon.request("POST", "/v1/completions", body)
            assert status == 200, reply
            cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
            answers.append((reply["choices"][0]["text"], cached > 800))
            daemon.stop()
            daemon.start()
            record = daemon.ready(QUESTIONS)
            assert record["status"]["config"]["kv_cache_bits"] == 4
    (expected, _), _ = answers
    assert answers == [(expected, False), (expected, True)]

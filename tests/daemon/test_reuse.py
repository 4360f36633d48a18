"""An agent's turns with a real daemon: prompt tokens reused from the cache, also in parallel."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from reconciler.core.protocol import Pulse
from tests import architectures, tiny
from tests.support import Daemon, Home

CHAT = "/v1/chat/completions"
SYSTEM = "What is asked for is honoured, or the answer says why it is not. " * 8
SLIDING, RECURRENT = "openai/gpt-oss-20b", "tiny/mamba"


def turn(daemon: Daemon, model: str, messages: list[Any], **more: Any) -> tuple[str, int, int]:
    """The response, and the prompt's tokens: all, and those reused from the cache."""
    body = {"model": model, "messages": messages, "max_tokens": 6, "temperature": 0}
    status, answer = daemon.request("POST", CHAT, body | more)
    assert status == 200, answer
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"] or "", usage["prompt_tokens"], cached


@pytest.mark.parametrize("model", [SLIDING, RECURRENT, "tiny/llama"])
def test_an_agents_next_turn_reads_only_new_tokens(shared: Daemon, model: str) -> None:
    shared.load({"model": model})
    messages: list[Any] = [{"role": "system", "content": model + SYSTEM}]
    before = 0
    for number in range(3):
        messages.append({"role": "user", "content": f"{number}. What is wanted?"})
        _, tokens, cached = turn(shared, model, messages)
        assert cached >= before - 1
        before = tokens
        # Not the model's own output: clients send a response back as they parsed it.
        messages.append({"role": "assistant", "content": "A record."})
    messages[:] = [messages[0], {"role": "user", "content": "Something else."}]
    _, tokens, cached = turn(shared, model, messages)
    assert cached > 100  # the system turn


def test_a_reused_prompt_is_answered_like_a_fresh_one(shared: Daemon) -> None:
    messages: list[Any] = [{"role": "system", "content": f"As a fresh one. {SYSTEM}"}]
    shared.load({"model": SLIDING})
    for number in range(2):
        messages.append({"role": "user", "content": f"{number}. What is wanted?"})
        used, _, cached = turn(shared, SLIDING, messages)
        messages.append({"role": "assistant", "content": "A record."})
    assert cached > 0
    shared.load({"model": SLIDING, "instance_id": "fresh"})
    answer, _, cached = turn(shared, "fresh", messages[:-1])
    assert (answer, cached) == (used, 0)


def test_four_simultaneous_conversations_keep_their_prompts(shared: Daemon) -> None:
    # Together they exceed the context for which the instance reserves memory.
    shared.load({"model": "tiny/qwen3", "context_length": 1024})

    def talk(number: int) -> int:
        messages: list[Any] = [{"role": "system", "content": f"{number}. {SYSTEM}"}]
        for _ in range(2):
            messages.append({"role": "user", "content": "What is wanted? " * 40})
            _, _, cached = turn(shared, "tiny/qwen3", messages, max_tokens=100)
            messages.append({"role": "assistant", "content": "A record."})
        return cached

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(talk, range(4))) > 400


def kept_bytes(daemon: Daemon, model: str) -> int:
    """Bytes of kept prompts, as reported by the worker of a model."""
    pid = daemon.get(f"/api/v1/records/{model}")["status"]["worker_pid"]
    (worker,) = [w for w in daemon.workers() if w.pid == pid]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(worker.cmdline()[-1])
        connection.sendall(b"GET /pulse HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read()
    return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=Pulse).kept_bytes


WIDE = {"model_type": "llama", "hidden_size": 32, "head_dim": 128} | dict.fromkeys(
    ("num_attention_heads", "num_key_value_heads"), 32
)
"""A KV cache of 64 kB for each token, so that few prompts take much memory."""


def test_kept_prompts_are_evicted_for_a_load(shared: Daemon, home: Home) -> None:
    home.lm_studio = shared.home.lm_studio
    tiny.write(tiny._BASE | WIDE, home.lm_studio / "models" / "own" / "wide")
    wide = {"model": "own/wide", "context_length": 128}
    big = {"model": "tiny/qwen3", "context_length": 8192}
    for name in shared.loaded():  # an estimate is lower for weights already in memory
        shared.unload(name)
    estimates = [shared.request("POST", "/api/v1/models/estimate", body)[1] for body in (wide, big)]
    needed = sum(one["needed_bytes"] for one in estimates)
    budget = round(needed * 1.03)
    # Memory for prompts next to both models: the wide one's own, and what is left of the budget.
    beside = estimates[0]["kv_cache_bytes"] + estimates[0]["prefill_bytes"] + budget - needed
    with Daemon(home, "--memory-budget", f"{budget}B") as daemon:
        daemon.load(wide)
        number = 0
        while kept_bytes(daemon, "own/wide") < 1.1 * beside:
            number += 1
            text = {"model": "own/wide", "prompt": [number % 256] * 100, "max_tokens": 2}
            assert daemon.request("POST", "/v1/completions", text)[0] == 200
        daemon.load(big)
        assert kept_bytes(daemon, "own/wide") <= beside


@pytest.mark.parametrize(
    ("model", "words"),
    [("tiny/mamba", "prefilled one at a time"), ("tiny/gemma2", "run one at a time")],
)
def test_a_record_warns_that_requests_are_not_batched(
    shared: Daemon, model: str, words: str
) -> None:
    shared.load({"model": model})
    warnings = shared.get(f"/api/v1/records/{model}")["status"]["warnings"]
    (warning,) = [w for w in warnings if w["key"] == "batching"]
    assert words in warning["reason"]


@pytest.mark.parametrize("name", ["llama4", "deepseek_v41"])
def test_prompts_that_cannot_be_batched_are_answered_one_by_one(shared: Daemon, name: str) -> None:
    model = f"own/{name}"
    tiny.write(architectures.config(name), shared.home.lm_studio / "models" / model)
    prompts = [[5, 6, 7], [9] * 60, [20, 21]]
    shared.load({"model": model})

    def ask(prompt: list[int]) -> str:
        body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0}
        status, answer = shared.request("POST", "/v1/completions", body)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, prompts)) == alone

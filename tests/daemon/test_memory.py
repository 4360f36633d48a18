"""`GET /api/v1/memory` and `/api/v1/instances`: memory by holder, tokens by instance."""

from typing import Any

from tests.conftest import QUESTIONS
from tests.support import Daemon


def instance(daemon: Daemon, name: str) -> Any:
    instances = daemon.get("/api/v1/instances")["instances"]
    return next((one for one in instances if one["name"] == name), None)


def test_memory_adds_up_and_names_its_holders(shared: Daemon) -> None:
    names = {"here", "beside"}
    for name in sorted(names):
        config = {"context_length": 64}
        shared.load({"model": QUESTIONS, "instance_id": name, "config": config})
    memory = shared.get("/api/v1/memory")
    (checkpoint,) = [
        one for one in memory["checkpoints"] if {i["name"] for i in one["instances"]} >= names
    ]
    assert checkpoint["shared_bytes"] > 2_000_000
    assert all(one["reserved_bytes"] > 0 for one in checkpoint["instances"])
    held = sum(
        one["shared_bytes"]
        + one["leased_bytes"]
        + one["excess_bytes"]
        + sum(i["reserved_bytes"] for i in one["instances"])
        for one in memory["checkpoints"]
    )
    assert memory["free_bytes"] == max(0, memory["budget_bytes"] - held)


def test_requests_in_flight_are_counted(shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "busy"})
    body = {"model": "busy", "prompt": "a", "ignore_eos": True, "stream": True}
    with shared.stream("/v1/completions", body) as reply:  # until the context is full
        assert reply.readline()
        assert instance(shared, "busy")["requests"] == 1
    shared.until(lambda: instance(shared, "busy")["requests"] == 0)


def test_tokens_and_first_tokens_are_counted(shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "counted"})
    question = {"role": "user", "content": "What is the capital of Japan?"}
    body = {"model": "counted", "messages": [question], "max_tokens": 3, "temperature": 0}
    usages = []
    for _ in range(2):
        status, answer = shared.request("POST", "/v1/chat/completions", body)
        assert status == 200
        usages.append(answer["usage"])
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[1] > cached[0] == 0
    shared.until(lambda: instance(shared, "counted")["completion_tokens"] == 6)
    found = instance(shared, "counted")
    assert found["cached_tokens"] == cached[1]
    assert found["prompt_tokens"] == 2 * usages[0]["prompt_tokens"]
    assert found["first_tokens"] == 2
    assert found["first_token_seconds"] > 0

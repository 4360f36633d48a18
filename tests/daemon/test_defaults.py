"""Defaults for the keys that requests leave out, with a real daemon and real MLX."""

import json
from typing import Any

import pytest

from tests.support import Daemon, conditions, copied

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PUBLISHED: dict[str, dict[str, Any]] = {
    "own/greedy": {"do_sample": False, "top_k": 40},
    "own/warm": {"do_sample": True, "temperature": 1.5, "max_new_tokens": 3},
    "own/odd": {"temperature": "hot", "top_k": 5},
    "own/varied": {"repetition_penalty": 2.5},
}
"""generation_config.json by model identifier."""

ECHO = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if style is defined %}style:{{ style }};{% endif %}"
)


@pytest.fixture(scope="module")
def daemon(shared: Daemon) -> Daemon:
    """A daemon with checkpoints that have a generation_config.json."""
    for key, config in PUBLISHED.items():
        path = copied(shared, key)
        (path / "generation_config.json").write_text(json.dumps(config), "utf-8")
        (path / "chat_template.jinja").write_text(ECHO, "utf-8")
    shared.load({"model": "own/greedy", "instance_id": "plain"})
    return shared


def complete(daemon: Daemon, model: str, **more: Any) -> str:
    body = {"model": model, "prompt": [5, 6, 7, 8], "max_tokens": 8} | more
    status, answer = daemon.request("POST", TEXT, body)
    assert status == 200, answer
    return str(answer["choices"][0]["text"])


def chat(daemon: Daemon, model: str, *messages: tuple[str, str], **more: Any) -> Any:
    sent = [{"role": role, "content": content} for role, content in messages]
    body = {"model": model, "messages": sent, "max_tokens": 1} | more
    return daemon.request("POST", CHAT, body)


def prompt_tokens(daemon: Daemon, model: str, *messages: tuple[str, str], **more: Any) -> int:
    status, answer = chat(daemon, model, *messages, **more)
    assert status == 200, answer
    return int(answer["usage"]["prompt_tokens"])


def in_force(daemon: Daemon, name: str) -> dict[str, tuple[Any, str]]:
    defaults = daemon.get(f"/api/v1/records/{name}")["status"]["defaults"]
    return {d["key"]: (d["value"], d["source"]) for d in defaults}


def test_a_model_that_does_not_sample_is_greedy_by_default(daemon: Daemon) -> None:
    expected = {
        "temperature": (0.0, "generation_config"),
        "top_k": (40, "generation_config"),
    }
    assert in_force(daemon, "plain") == expected
    greedy = complete(daemon, "plain", temperature=0)
    assert [complete(daemon, "plain") for _ in range(3)] == [greedy] * 3
    assert complete(daemon, "plain", temperature=None) == greedy


def test_a_record_overrides_the_models_defaults_and_a_request_overrides_both(
    daemon: Daemon,
) -> None:
    daemon.load({"model": "own/greedy", "instance_id": "hot", "defaults": {"temperature": 2}})
    assert in_force(daemon, "hot")["temperature"] == (2.0, "record")
    greedy = complete(daemon, "plain", temperature=0)
    assert len({complete(daemon, "hot", top_k=0) for _ in range(4)}) > 1
    assert [complete(daemon, "hot", temperature=0) for _ in range(2)] == [greedy] * 2


def test_a_penalty_set_by_the_model_acts_like_one_in_the_request(daemon: Daemon) -> None:
    daemon.load({"model": "own/varied"})
    varied = complete(daemon, "own/varied", temperature=0)
    assert varied == complete(daemon, "plain", temperature=0, repetition_penalty=2.5)
    assert varied != complete(daemon, "plain", temperature=0)
    assert complete(daemon, "own/varied", temperature=0, repetition_penalty=1) == complete(
        daemon, "plain", temperature=0
    )


def test_a_default_seed_makes_equal_requests_equal(daemon: Daemon) -> None:
    defaults = {"temperature": 1.5, "seed": 7}
    daemon.load({"model": "own/warm", "instance_id": "seeded", "defaults": defaults})
    seeded = complete(daemon, "seeded")
    assert complete(daemon, "seeded") == seeded
    assert complete(daemon, "plain", temperature=1.5, seed=7, top_k=0) == seeded
    assert complete(daemon, "seeded", seed=8) != seeded


def test_max_tokens_is_set_by_the_request_the_record_or_the_model(daemon: Daemon) -> None:
    def tokens(name: str, **more: Any) -> int:
        body = {"model": name, "prompt": [5, 6, 7], "temperature": 0} | more
        status, answer = daemon.request("POST", TEXT, body)
        assert status == 200, answer
        return int(answer["usage"]["completion_tokens"])

    body = {"model": "own/warm", "instance_id": "short"}
    daemon.load(body | {"context_length": 40})
    assert tokens("short") == 3
    assert tokens("short", max_tokens=5) == 5
    assert tokens("short", min_tokens=4) == 4
    changed = daemon.load(body | {"defaults": {"max_tokens": 4}})
    assert [w["key"] for w in changed["warnings"]] == ["defaults.max_tokens"]
    assert tokens("short") == 4
    daemon.load(body | {"defaults": {"max_tokens": -1}})
    assert tokens("short") > 5
    daemon.load(body | {"defaults": {"max_tokens": None}})
    assert tokens("short") == 3


def test_a_default_system_prompt_is_used_if_none_is_sent(daemon: Daemon) -> None:
    defaults = {"system_prompt": "Be brief.", "chat_template_kwargs": {"style": "terse"}}
    daemon.load({"model": "own/greedy", "instance_id": "brief", "defaults": defaults})
    user, brief = ("user", "hello"), ("system", "Be brief.")
    explicit = prompt_tokens(daemon, "plain", brief, user, chat_template_kwargs={"style": "terse"})
    assert prompt_tokens(daemon, "brief", user) == explicit
    assert prompt_tokens(daemon, "brief", brief, user) == explicit
    other = prompt_tokens(daemon, "brief", ("system", "x"), user)
    assert other < explicit


def test_changed_defaults_reconfigure_without_reading_weights(daemon: Daemon) -> None:
    daemon.load({"model": "own/greedy", "instance_id": "redefined", "defaults": {"top_k": 3}})
    before = daemon.get("/api/v1/records/redefined")
    spec = before["spec"] | {"defaults": {"top_k": 4}}
    plan = {"apply": [{"name": "redefined", "spec": spec}]}
    status, planned = daemon.request("POST", "/api/v1/plan", plan)
    (action,) = (one for one in planned["actions"] if one["name"] == "redefined")
    assert (status, action["action"]) == (200, "Reconfigure")
    assert action["message"] == "changed: defaults.top_k from 3 to 4"
    (change,) = planned["changes"]
    assert (change["before"]["defaults"], change["after"]["defaults"]) == (
        {"top_k": 3},
        {"top_k": 4},
    )
    joined = daemon.load(
        {"model": "own/greedy", "instance_id": "redefined", "defaults": {"top_k": 3}}
    )
    assert joined["joined"] is True
    daemon.load({"model": "own/greedy", "instance_id": "redefined", "defaults": {"top_k": 4}})
    after = daemon.get("/api/v1/records/redefined")
    assert after["generation"] == before["generation"] + 1
    assert after["status"]["loaded_by"] == "Reconfigure"
    assert after["status"]["worker_pid"] == before["status"]["worker_pid"]
    assert list(after["status"]["load_phases"]) == ["warm_up"]
    kept = daemon.get("/api/v1/history?name=redefined")["history"]
    assert [g["spec"]["defaults"] for g in kept] == [{"top_k": 4}, {"top_k": 3}]


def test_a_default_that_the_model_does_not_support_is_left_out_with_a_warning(
    daemon: Daemon,
) -> None:
    defaults = {"reasoning_effort": "low", "top_k": 2}
    answer = daemon.load({"model": "own/greedy", "instance_id": "dull", "defaults": defaults})
    (warning,) = answer["warnings"]
    assert (warning["key"], warning["asked"]) == ("defaults.reasoning_effort", "low")
    assert "reasoning_effort" not in in_force(daemon, "dull")
    assert chat(daemon, "dull", ("user", "hello"))[0] == 200


def test_an_invalid_value_in_the_models_defaults_is_a_warning(daemon: Daemon) -> None:
    answer = daemon.load({"model": "own/odd"})
    assert [w["key"] for w in answer["warnings"]] == ["generation_config.temperature"]
    assert in_force(daemon, "own/odd") == {"top_k": (5, "generation_config")}


def test_a_manifest_declares_defaults_and_an_invalid_one_is_reported(daemon: Daemon) -> None:
    path = daemon.home.write("d.yaml", name="declared", model="own/greedy")
    daemon.ready("declared")
    text = path.read_text("utf-8")
    path.write_text(text + "  defaults:\n    temperature: 0.5\n    top_k: null\n", "utf-8")
    record = daemon.eventually("declared", lambda r: "defaults" in r["spec"])
    record = daemon.ready("declared", record["generation"])
    assert record["spec"]["defaults"] == {"temperature": 0.5}
    assert in_force(daemon, "declared") == {
        "temperature": (0.5, "record"),
        "top_k": (40, "generation_config"),
    }
    path.write_text(text + "  defaults:\n    temperature: 5\n    top_q: 1\n", "utf-8")
    record = daemon.eventually("declared", lambda r: len(r["source_errors"]) == 2)
    found = {e["key"]: (e["line"], e["message"]) for e in record["source_errors"]}
    assert found["spec.defaults.temperature"][0] == 9
    assert "at most 2" in found["spec.defaults.temperature"][1]
    assert found["spec.defaults.top_q"][0] == 10
    assert conditions(record)["Ready"] == "True"
    path.write_text(text, "utf-8")
    daemon.eventually("declared", lambda r: "defaults" not in r["spec"])

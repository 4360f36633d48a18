"""Speculative decoding through a real daemon: equal answers, and what it reports."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.daemon.test_metrics import metrics
from tests.support import Daemon, conditions, copied, parse_stream

MODEL = "tiny/llama"
PROMPT = [3 * n * n % 61 + 5 for n in range(24)] * 2
TOKENS = 80


@pytest.fixture(scope="module")
def daemon(shared: Daemon) -> Daemon:
    """A daemon with one instance that drafts tokens, and one that does not."""
    shared.load({"model": MODEL, "instance_id": "drafting"})
    shared.load({"model": MODEL, "instance_id": "plain", "prompt_lookup": False})
    return shared


def asked(model: str, **more: Any) -> dict[str, Any]:
    usual = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
    return usual | {"model": model, **more}


def complete(daemon: Daemon, model: str, **more: Any) -> Any:
    status, answer = daemon.request("POST", "/v1/completions", asked(model, **more))
    assert status == 200, answer
    return answer["choices"][0] | {"tokens": answer["usage"]["completion_tokens"]}


def drafted(daemon: Daemon, name: str, kind: str = "drafted") -> float:
    return metrics(daemon)["reconciler_draft_tokens_total", (name, kind)]


def test_greedy_answers_equal_those_without_drafts(daemon: Daemon) -> None:
    for more in (
        {},
        {"max_tokens": 7},
        {"prompt": [9, 8, 7, 6] * 8},
        {"stop": complete(daemon, "plain")["text"][90:94]},
        {"ignore_eos": False},
        {"logit_bias": {"7": 3}},
        {"repetition_penalty": 1.2},
    ):
        assert complete(daemon, "drafting", **more) == complete(daemon, "plain", **more)
    # A new session always tries it; whether it pays is measured, and a busy machine may say no.
    assert drafted(daemon, "drafting") > 0
    assert 0 <= drafted(daemon, "drafting", "accepted") <= drafted(daemon, "drafting")
    assert drafted(daemon, "plain") == 0
    found = metrics(daemon)
    for kind in ("spent", "replaced"):
        assert found["reconciler_speculation_seconds_total", ("drafting", kind)] >= 0
        assert found["reconciler_speculation_seconds_total", ("plain", kind)] == 0


def test_log_probabilities_are_those_without_drafts(daemon: Daemon) -> None:
    found = complete(daemon, "drafting", logprobs=1)["logprobs"]
    wanted = complete(daemon, "plain", logprobs=1)["logprobs"]
    assert found["tokens"] == wanted["tokens"]
    assert found["token_logprobs"] == pytest.approx(wanted["token_logprobs"], abs=1e-3)


def test_a_request_arrives_in_the_middle_of_a_drafted_answer(daemon: Daemon) -> None:
    """Eight at once: each is alone at some time, and in company at others."""
    lengths = [15 * n for n in range(1, 9)]

    def of(model: str) -> list[Any]:
        with ThreadPoolExecutor(len(lengths)) as pool:
            answers = pool.map(lambda n: complete(daemon, model, max_tokens=n), lengths)
            return list(answers)

    wanted = [complete(daemon, "plain", max_tokens=n) for n in lengths]
    assert of("drafting") == wanted


def test_a_client_that_disconnects_in_the_middle_disturbs_no_later_answer(daemon: Daemon) -> None:
    wanted = complete(daemon, "plain")
    for events in (1, 5, 20):
        with daemon.stream("/v1/completions", asked("drafting", stream=True)) as stream:
            lines = parse_stream(stream)
            for _ in range(events):
                next(lines)
        assert complete(daemon, "drafting") == wanted


def test_an_answer_ends_at_the_end_of_the_context(daemon: Daemon) -> None:
    for name, lookup in (("narrow", True), ("narrow-plain", False)):
        body = {"model": MODEL, "instance_id": name, "context_length": 100, "prompt_lookup": lookup}
        daemon.load(body)
    found = complete(daemon, "narrow", max_tokens=None)
    assert found == complete(daemon, "narrow-plain", max_tokens=None)
    assert (found["finish_reason"], found["tokens"]) == ("length", 100 - len(PROMPT))


def test_prompt_lookup_is_changed_without_reading_weights(daemon: Daemon) -> None:
    body = {"model": MODEL, "instance_id": "switched"}
    daemon.load(body | {"prompt_lookup": False})
    complete(daemon, "switched")
    assert drafted(daemon, "switched") == 0
    changed = daemon.load(body | {"prompt_lookup": None})
    assert [w["key"] for w in changed["warnings"]] == ["prompt_lookup"]
    record = daemon.get("/api/v1/records/switched")
    assert (record["status"]["loaded_by"], record["spec"]) == (
        "Reconfigure",
        {"model": MODEL, "config": {}},
    )
    complete(daemon, "switched")
    assert drafted(daemon, "switched") > 0
    again = daemon.load(body)  # the key is left out, so it stays
    assert again["joined"]


def test_a_draft_model_is_loaded_reported_and_changes_no_answer(daemon: Daemon) -> None:
    body = {"model": MODEL, "instance_id": "assisted", "prompt_lookup": False}
    status, estimate = daemon.request(
        "POST", "/api/v1/models/estimate", body | {"draft_model": "tiny/qwen3"}
    )
    assert status == 200
    daemon.load(body)
    before = daemon.get("/api/v1/records/assisted")["status"]
    for draft in ("tiny/qwen3", MODEL):
        changed = daemon.load(body | {"draft_model": draft})
        assert [w["key"] for w in changed["warnings"]] == ["draft_model"]
        record = daemon.get("/api/v1/records/assisted")
        path = str((daemon.home.models / draft).resolve())
        assert record["spec"]["draft_model"] == draft
        assert (record["status"]["draft_model"], record["status"]["loaded_by"]) == (
            path,
            "Reconfigure",
        )
        assert record["status"]["worker_pid"] == before["worker_pid"]
        assert record["status"]["memory_bytes"] > before["memory_bytes"]
        for more in ({}, {"prompt": [9, 8, 7]}, {"max_tokens": 5}, {"ignore_eos": False}):
            assert complete(daemon, "assisted", **more) == complete(daemon, "plain", **more)
    instances = {i["name"]: i for i in daemon.get("/api/v1/instances")["instances"]}
    reserved = [instances[name]["reserved_bytes"] for name in ("assisted", "plain")]
    assert reserved[0] - reserved[1] > 0.5 * estimate["draft_bytes"] > 0
    assert drafted(daemon, "assisted", "accepted") > 0, "the model drafts for itself"
    assert daemon.load(body)["joined"], "the key is left out, so it stays"
    daemon.load(body | {"draft_model": None})
    record = daemon.get("/api/v1/records/assisted")
    assert record["status"]["draft_model"] is None
    assert record["status"]["memory_bytes"] < before["memory_bytes"] * 1.1
    assert complete(daemon, "assisted") == complete(daemon, "plain")


def refused(daemon: Daemon, **body: Any) -> tuple[int, str, str]:
    sent = {"model": MODEL, "instance_id": "refused", **body}
    status, answer = daemon.request("POST", "/api/v1/models/load", sent)
    return status, answer["error"]["code"], answer["error"]["message"]


def test_a_draft_model_that_cannot_be_used_is_refused_with_the_reason(daemon: Daemon) -> None:
    other = copied(daemon, "me/other-tokens")
    tokenizer = json.loads((other / "tokenizer.json").read_bytes())
    tokenizer["model"]["vocab"]["one_more"] = 400
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    status, code, message = refused(daemon, draft_model="me/other-tokens")
    assert (status, code) == (400, "invalid_draft_model")
    assert "me/other-tokens: its tokenizer has" in message
    status, code, message = refused(daemon, draft_model="no/such")
    assert (status, code) == (404, "draft_model_not_found")
    status, code, message = refused(daemon, draft_model="openai/gpt-oss-20b")
    assert status == 500
    assert "its KV cache cannot be rewound" in message
    assert daemon.request("GET", "/api/v1/records/refused")[0] == 404


def test_a_draft_model_without_effect_is_reported(daemon: Daemon) -> None:
    body = {"model": "openai/gpt-oss-20b", "instance_id": "sliding", "draft_model": "tiny/qwen3"}
    loaded = daemon.load(body)
    (warning,) = (w for w in loaded["warnings"] if w["key"] == "draft_model")
    assert "cannot be rewound" in warning["reason"]
    status, _ = daemon.request("POST", "/v1/completions", asked("sliding", max_tokens=3))
    assert status == 200


def test_a_manifest_declares_a_draft_model_and_waits_for_one(daemon: Daemon) -> None:
    path = daemon.home.write("a.yaml", name="declared", model=MODEL)
    path.write_text(path.read_text("utf-8") + "  draft_model: me/later\n", "utf-8")
    daemon.until(lambda: daemon.request("GET", "/api/v1/records/declared")[0] == 200)
    record = daemon.eventually("declared", lambda r: conditions(r)["Stalled"] == "True")
    reason = {c["type"]: c for c in record["status"]["conditions"]}["Stalled"]
    assert reason["reason"] == "DraftModelNotFound"
    copied(daemon, "me/later", "tiny/qwen3")
    status, cleared = daemon.request("POST", "/api/v1/records/declared/clear")
    assert status == 200, cleared
    daemon.ready("declared")
    assert complete(daemon, "declared") == complete(daemon, "plain")

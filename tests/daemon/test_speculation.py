"""Speculative decoding through a real daemon: equal answers, and what it reports."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.daemon.test_metrics import metrics
from tests.support import Daemon, parse_stream

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
    before = drafted(daemon, "drafting")
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
    assert drafted(daemon, "drafting") > before
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

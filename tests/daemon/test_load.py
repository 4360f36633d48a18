"""POST /api/v1/models/load, with a real daemon and real MLX."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.worker import overrides
from tests.conftest import CHECKPOINTS, QUESTIONS
from tests.support import Daemon, copied

EXAMPLE = {
    "model": "openai/gpt-oss-20b",
    "config": {"context_length": 16384, "flash_attention": True},
}
"""The contract's own example request."""

KEYS = {
    "context_length",
    "eval_batch_size",
    "flash_attention",
    "num_experts",
    "offload_kv_cache_to_gpu",
    "kv_cache_bits",
}


def test_the_contracts_example_is_answered_with_the_settings_in_force(shared: Daemon) -> None:
    shared.unload("openai/gpt-oss-20b")
    before = shared.loaded()
    answer = shared.load(EXAMPLE)
    assert answer["model_instance_id"] == "openai/gpt-oss-20b"
    assert answer["config"].keys() == KEYS
    assert answer["config"]["context_length"] == 16384
    assert answer["config"]["eval_batch_size"] == 512
    assert answer["config"]["num_experts"] == 4
    assert answer["load_time_seconds"] > 0
    assert shared.loaded() - before == {"openai/gpt-oss-20b"}


def test_a_setting_without_effect_is_not_reported_as_in_force(shared: Daemon) -> None:
    body = {"model": "tiny/llama", "instance_id": "honest"}
    all_wanted = {"flash_attention": True, "offload_kv_cache_to_gpu": True, "num_experts": 2}
    answer = shared.load(body | {"config": all_wanted})
    in_force = {key: answer["config"][key] for key in all_wanted}
    # The settings in force depend on the GPU; the model is dense.
    gpu = overrides.on_gpu()
    assert in_force == {
        "flash_attention": True,
        "offload_kv_cache_to_gpu": gpu,
        "num_experts": 0,
    }
    warned = {"num_experts"} if gpu else {"num_experts", "offload_kv_cache_to_gpu"}
    assert {w["key"] for w in answer["warnings"]} == warned
    assert all(w["reason"] for w in answer["warnings"])


def test_both_forms_of_a_request_get_the_same_answer(shared: Daemon) -> None:
    settings = {"context_length": 77, "num_experts": 1}
    flat = {"model": "tiny/qwen3_moe", "instance_id": "both", "echo_load_config": True}
    answer = shared.load(flat | settings)
    assert (answer["type"], answer["status"], answer["instance_id"]) == ("llm", "loaded", "both")
    assert answer["load_config"] == answer["config"]
    assert {key: answer["config"][key] for key in settings} == settings
    nested = shared.load({"model": "tiny/qwen3_moe", "instance_id": "both", "config": settings})
    assert nested["joined"] is True
    assert "load_config" not in nested
    assert nested["model_instance_id"] == "both"


def test_a_model_with_its_own_attention_warns_that_flash_attention_has_no_effect(
    shared: Daemon,
) -> None:
    for wanted, warned in ((None, []), (True, ["flash_attention"]), (False, [])):
        config = {"flash_attention": wanted}
        body = {"model": "tiny/gemma2", "instance_id": f"own-{wanted}", "config": config}
        answer = shared.load(body)
        assert answer["config"]["flash_attention"] is False
        assert [w["key"] for w in answer["warnings"]] == [*warned, "batching"]


def test_flash_attention_is_observed_in_the_forward_pass(shared: Daemon) -> None:
    for wanted in (True, False):
        body = {"model": "tiny/llama", "instance_id": f"flash-{wanted}"}
        answer = shared.load(body | {"config": {"flash_attention": wanted}})
        assert (answer["config"]["flash_attention"], answer["warnings"]) == (wanted, [])


@pytest.mark.parametrize("model", ["openai/gpt-oss-20b", "tiny/qwen3_moe"])
def test_num_experts_is_observed_in_the_forward_pass(shared: Daemon, model: str) -> None:
    for wanted in (1, 3):
        body = {"model": model, "instance_id": f"{model}-{wanted}"}
        answer = shared.load(body | {"config": {"num_experts": wanted}})
        assert answer["config"]["num_experts"] == wanted
        assert answer["warnings"] == []


def test_twenty_simultaneous_identical_requests_share_one_load(daemon: Daemon) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(daemon.load, [EXAMPLE] * 20))
    assert {a["model_instance_id"] for a in answers} == {"openai/gpt-oss-20b"}
    assert sorted(a["joined"] for a in answers) == [False] + [True] * 19
    assert len({a["load_time_seconds"] for a in answers}) == 1
    assert daemon.loaded() == {"openai/gpt-oss-20b"}
    assert len(daemon.workers()) == 1
    assert daemon.log().count("action started") == 1


def test_a_repeated_request_joins_and_reports_the_original_load(shared: Daemon) -> None:
    copied(shared, "own/repeated")
    body = {"model": "own/repeated", "config": {"context_length": 2048}}
    first, second = shared.load(body), shared.load(body)
    assert (first["joined"], second["joined"]) == (False, True)
    assert second["load_time_seconds"] == first["load_time_seconds"]
    assert shared.load({"model": "own/repeated"})["config"]["context_length"] == 2048


def test_other_settings_reconfigure_without_a_new_process(shared: Daemon) -> None:
    name = "tiny/llama"
    shared.load({"model": name, "config": {"context_length": 512, "eval_batch_size": 64}})
    before = shared.get(f"/api/v1/records/{name}")
    answer = shared.load({"model": name, "config": {"context_length": 700}})
    after = shared.get(f"/api/v1/records/{name}")
    assert answer["config"]["context_length"] == 700
    assert answer["config"]["eval_batch_size"] == 64
    assert after["generation"] == before["generation"] + 1
    assert after["status"]["worker_pid"] == before["status"]["worker_pid"]
    assert "weights" not in after["status"]["load_phases"]
    reset = shared.load({"model": name, "config": {"context_length": None}})
    assert reset["config"]["context_length"] == 32768


def test_two_instances_of_one_model_share_one_worker(shared: Daemon) -> None:
    bodies = [{"model": "tiny/llama-4bit", "instance_id": f"twin-{n}"} for n in (1, 2)]
    for body in bodies:
        shared.load(body)
    pids = {shared.get(f"/api/v1/records/twin-{n}")["status"]["worker_pid"] for n in (1, 2)}
    assert len(pids) == 1
    shared.unload("twin-1")
    assert "twin-2" in shared.loaded()


def test_an_update_that_fails_leaves_the_previous_settings_loaded(shared: Daemon) -> None:
    name = "steady"
    shared.load({"model": "tiny/llama", "instance_id": name, "config": {"context_length": 99}})
    body = {"model": "tiny/llama", "instance_id": name, "config": {"context_length": 10**6}}
    status, answer = shared.request("POST", "/api/v1/models/load", body)
    assert (status, answer["error"]["param"]) == (400, "context_length")
    assert "32768" in answer["error"]["message"]
    assert shared.ready(name)["status"]["config"]["context_length"] == 99


def test_a_failed_first_load_leaves_no_record(shared: Daemon) -> None:
    path = copied(shared, "own/shapeless") / "config.json"
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps(config | {"intermediate_size": 7}), "utf-8")
    before = shared.get("/api/v1/records")
    status, answer = shared.request("POST", "/api/v1/models/load", {"model": "own/shapeless"})
    assert (status, answer["error"]["type"]) == (500, "model_load_failed")
    assert "shape" in answer["error"]["message"]
    assert shared.get("/api/v1/records") == before
    healthy = {"model": "tiny/llama", "instance_id": "healthy"}
    assert shared.load(healthy)["model_instance_id"] == "healthy"


@pytest.mark.parametrize(
    ("body", "status", "type_", "code", "param"),
    [
        ({"model": "no/such"}, 404, "model_not_found", "model_not_found", "model"),
        ({"model": "../tiny/llama"}, 404, "model_not_found", "model_not_found", "model"),
        ({"model": "tiny/.."}, 404, "model_not_found", "model_not_found", "model"),
        ({}, 400, "invalid_request", "missing_required_parameter", "model"),
        ({"model": 5}, 400, "invalid_request", "invalid_value", "model"),
        ({"model": "m", "foo": 1}, 400, "invalid_request", "unrecognized_keys", "foo"),
        (
            {"model": "m", "config": {"context_length": "long"}},
            *(400, "invalid_request", "invalid_value", "config.context_length"),
        ),
        (
            {"model": "tiny/qwen3_moe", "config": {"num_experts": 9}},
            *(400, "invalid_request", "impossible_setting", "num_experts"),
        ),
        (
            {"model": "m", "num_experts": 1, "config": {"num_experts": 2}},
            *(400, "invalid_request", "invalid_value", "num_experts"),
        ),
        (
            {"model": "m", "eval_batch_size": "big"},
            *(400, "invalid_request", "invalid_value", "eval_batch_size"),
        ),
        (b'{"model": "\\ud800"}', 400, "invalid_request", "invalid_json", None),
        (b'{"model": "m", "num_experts": NaN}', 400, "invalid_request", "invalid_json", None),
        (b"[" * 500_000, 400, "invalid_request", "invalid_json", None),
        (b"\xff", 400, "invalid_request", "invalid_json", None),
        (b"", 400, "invalid_request", "invalid_json", None),
        (b"{nonsense", 400, "invalid_request", "invalid_json", None),
    ],
)
def test_a_bad_request_is_answered_in_the_standard_form(
    shared: Daemon, body: object, status: int, type_: str, code: str, param: str | None
) -> None:
    got, answer = shared.request("POST", "/api/v1/models/load", body)
    error = answer["error"]
    assert (got, error["type"], error["code"]) == (status, type_, code)
    assert error.get("param") == param
    assert error["message"]


def test_an_unknown_route_and_method_are_answered_in_the_standard_form(shared: Daemon) -> None:
    for method, path, expected in (("GET", "/nope", 404), ("PUT", "/health", 405)):
        status, answer = shared.request(method, path)
        assert (status, answer["error"]["type"]) == (expected, "invalid_request")
        assert path in answer["error"]["message"]


def test_unload_removes_the_record_and_ends_the_worker(shared: Daemon) -> None:
    copied(shared, "own/ended")
    shared.load({"model": "own/ended"})
    pid = shared.get("/api/v1/records/own/ended")["status"]["worker_pid"]
    assert shared.unload("own/ended") == (200, {"instance_id": "own/ended"})
    assert shared.request("GET", "/api/v1/records/own/ended")[0] == 404
    assert pid not in {p.pid for p in shared.workers()}
    status, answer = shared.unload("own/ended")
    assert (status, answer["error"]["type"]) == (404, "model_not_found")


def test_a_name_with_slashes_is_accepted_plain_and_percent_encoded(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "team/a/b"})
    plain = shared.get("/api/v1/records/team/a/b")
    assert plain["name"] == "team/a/b"
    assert shared.get("/api/v1/records/team%2Fa%2Fb")["name"] == "team/a/b"


def test_models_are_listed_with_facts_from_their_files(shared: Daemon) -> None:
    rows = {m["key"]: m for m in shared.get("/api/v1/models")["models"]}
    assert rows.keys() >= {*CHECKPOINTS, QUESTIONS}
    row = rows["tiny/llama-4bit"]
    assert row["architecture"] == "llama"
    assert row["quantization"] == {"name": "4bit", "bits_per_weight": 4}
    assert row["max_context_length"] == 32768
    assert (row["publisher"], row["format"], row["type"]) == ("tiny", "mlx", "llm")

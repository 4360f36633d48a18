"""`GET /openapi.json` and the error table; these tests validate every response against it."""

import re
from pathlib import Path
from typing import Any

import pytest

from reconciler.api import app
from reconciler.core.schema import NAMES
from tests.support import Daemon, check_answer


def routes() -> set[tuple[str, str]]:
    router = app.build(None, "127.0.0.1", None).router  # type: ignore[arg-type]
    return {
        (route.method.lower(), route.resource.canonical)
        for route in router.routes()
        if route.method != "HEAD" and route.resource is not None
    }


def test_the_document_is_valid_and_describes_every_route(shared: Daemon) -> None:
    from openapi_spec_validator import validate  # takes 0.3 s: only where it is needed

    document = shared.get("/openapi.json")
    validate(document)
    described = {(m, path) for path, operations in document["paths"].items() for m in operations}
    assert described == routes()
    assert set(document["components"]["schemas"]) == set(NAMES)
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert "default" in operation["responses"]


def test_a_response_that_violates_the_description_is_detected() -> None:
    check_answer("GET", "/health", 200, {"status": "ok", "version": "1"})
    wrongs: list[Any] = [{"status": "ok"}, {"status": "fine", "version": "1"}, {"version": 1}, []]
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            check_answer("GET", "/health", 200, wrong)
    with pytest.raises(AssertionError):
        check_answer("GET", "/api/v1/records/x", 404, {"error": "no"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nope", None, 404, "route_not_found"),
        ("GET", "/api/v1/models/load", None, 405, "method_not_allowed"),
        ("POST", "/api/v1/models", None, 405, "method_not_allowed"),
        ("POST", "/api/v1/models/load", b"x" * 1_000_001, 413, "invalid_request"),
        ("POST", "/api/v1/models/unload", {}, 400, "missing_required_parameter"),
        ("POST", "/api/v1/models/unload", {"instance_id": 5}, 400, "invalid_value"),
        ("POST", "/api/v1/models/unload", {"instance_id": "x", "y": 1}, 400, "unrecognized_keys"),
        ("POST", "/api/v1/models/unload", {"instance_id": "no such"}, 404, "model_not_found"),
        ("POST", "/api/v1/models/unload", b"{", 400, "invalid_json"),
        ("POST", "/api/v1/models/load", [], 400, "invalid_value"),
        ("POST", "/api/v1/models/load", {"model": ""}, 400, "invalid_value"),
        ("POST", "/api/v1/models/load", {"model": "m", "config": []}, 400, "invalid_value"),
        ("POST", "/api/v1/models/load", {"model": "m", "instance_id": "-x"}, 400, "invalid_value"),
        (
            "POST",
            "/api/v1/models/load",
            {"model": "m", "echo_load_config": 1},
            400,
            "invalid_value",
        ),
        ("GET", "/api/v1/records/none", None, 404, "model_not_found"),
        ("GET", "/api/v1/records/none?wait=maybe", None, 400, "invalid_value"),
        ("GET", "/api/v1/records/none?wait=gone&timeout=-1", None, 400, "invalid_value"),
        ("GET", "/api/v1/records/none?wait=gone&wait=ready", None, 400, "invalid_value"),
        ("GET", "/api/v1/records?name=x", None, 400, "unrecognized_keys"),
        ("GET", "/api/v1/history?nmae=x", None, 400, "unrecognized_keys"),
        ("DELETE", "/api/v1/checkpoints/no/ne?revision=v1", None, 400, "unrecognized_keys"),
        ("DELETE", "/api/v1/records/none?purge", None, 400, "unrecognized_keys"),
    ],
)
def test_every_route_returns_errors_in_the_standard_form(
    shared: Daemon, method: str, path: str, body: Any, status: int, code: str
) -> None:
    got, answer = shared.request(method, path, body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"]


def test_the_error_for_a_wrong_type_names_the_expected_one(shared: Daemon) -> None:
    body = {"model": "m", "config": {"flash_attention": "yes", "num_experts": -1}}
    _, answer = shared.request("POST", "/api/v1/models/load", body)
    assert answer["error"]["param"] == "config.flash_attention"
    assert 'must be boolean or null, got "yes"' in answer["error"]["message"]


def test_a_dummy_token_is_accepted_if_none_is_required(shared: Daemon) -> None:
    headers = {"Authorization": "Bearer lm-studio"}
    assert shared.request("GET", "/health", headers=headers)[0] == 200
    assert shared.request("GET", "/api/v1/models", headers=headers)[0] == 200


def test_an_update_warns_that_it_changes_a_shared_instance(shared: Daemon) -> None:
    body = {"model": "tiny/llama", "instance_id": "warned"}
    shared.load(body | {"config": {"context_length": 100}})
    answer = shared.load(body | {"config": {"context_length": 200, "eval_batch_size": None}})
    (warning,) = answer["warnings"]
    assert (warning["key"], warning["asked"]) == ("context_length", 200)
    assert "changed from 100" in warning["reason"]
    assert "'warned'" in warning["reason"]
    assert shared.load(body)["warnings"] == []


def test_the_example_manifests_name_the_published_schema() -> None:
    for path in Path("manifests").glob("*.yaml"):
        (target,) = re.findall(r"yaml-language-server: \$schema=(\S+)", path.read_text("utf-8"))
        assert (path.parent / target).resolve() == Path("schemas/manifest.schema.json").resolve()

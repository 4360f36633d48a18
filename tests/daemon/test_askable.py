"""`GET /v1/models` and `/v1/models/NAME`, which list the models that requests can name."""

import json
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from typing import Any

import openai
import pytest

from tests.support import MANIFEST, Daemon, conditions, copied

LLAMA = "tiny/llama"


def client_of(daemon: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0)


def listed(daemon: Daemon) -> dict[str, str]:
    """States of the listed models by name."""
    with client_of(daemon) as client:
        return {one.id: getattr(one, "state", "") for one in client.models.list()}


def is_there(daemon: Daemon, name: str) -> bool:
    return daemon.request("GET", f"/api/v1/records/{name}")[0] == 200


def test_loaded_and_idle_models_can_be_requested(shared: Daemon) -> None:
    shared.load({"model": LLAMA})
    shared.load({"model": LLAMA, "instance_id": "short", "idle_ttl_seconds": 1})
    assert listed(shared)[LLAMA] == "loaded"
    shared.eventually("short", lambda r: "Idle" in str(r["status"]["conditions"]))
    shared.until(lambda: listed(shared).get("short") == "idle")
    body = {"model": "short", "prompt": "a", "max_tokens": 1}
    assert shared.request("POST", "/v1/completions", body)[0] == 200


def test_a_declared_record_that_waits_is_listed_and_an_impossible_one_is_not(
    shared: Daemon,
) -> None:
    shared.home.write("none.yaml", name="none", model="no/such")
    suspended = MANIFEST.format(name="resting", model=LLAMA, config="{}") + "  suspend: true\n"
    (shared.home.manifests / "resting.yaml").write_text(suspended, "utf-8")
    for name in ("none", "resting"):
        shared.until(partial(is_there, shared, name))
    shared.eventually("none", lambda r: conditions(r)["Stalled"] == "True")
    assert not {"none", "resting"} & set(listed(shared))
    for name in ("none", "resting"):
        status, answer = shared.request("GET", f"/v1/models/{name}")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_one_model_is_found_by_its_name_with_slashes(shared: Daemon) -> None:
    shared.load({"model": LLAMA})
    shared.load({"model": LLAMA, "instance_id": "team/of/two"})
    with client_of(shared) as client:
        for name in (LLAMA, "team/of/two"):
            assert client.models.retrieve(name).id == name
            for path in (name, urllib.parse.quote(name, safe="")):
                one = shared.get(f"/v1/models/{path}")
                assert (one["id"], one["object"], one["state"]) == (name, "model", "loaded")
        with pytest.raises(openai.NotFoundError) as raised:
            client.models.retrieve("no/such")
    assert raised.value.code == "model_not_found"


def test_with_jit_models_on_disk_can_be_requested(jit: Daemon) -> None:
    copied(jit, "own/found")
    names = listed(jit)
    assert names["own/found"] == "not-loaded"
    assert jit.get("/v1/models/own/found")["state"] == "not-loaded"
    assert jit.request("GET", "/v1/models/no/such")[0] == 404
    body = {"model": "own/found", "prompt": "a", "max_tokens": 1}
    assert jit.request("POST", "/v1/completions", body)[0] == 200
    assert listed(jit)["own/found"] == "loaded"
    # A model is listed once, either as an instance or as a model on disk.
    with client_of(jit) as client:
        ids = [one.id for one in client.models.list()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/batches", 400),
        ("POST", "/api/blobs", 404),
        ("DELETE", "/api/nope", 404),
        ("POST", "/v1/images/generations", 404),
        ("POST", "/v1/audio/speech", 404),
    ],
)
def test_an_unknown_route_is_an_error_in_the_form_of_the_api(
    shared: Daemon, method: str, path: str, status: int
) -> None:
    request = urllib.request.Request(shared.url + path, b"{}", method=method)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    answer = json.load(raised.value)
    error: Any = answer["error"]
    assert raised.value.code == status
    if path.startswith("/api/"):
        assert isinstance(error, str)
    elif path.startswith("/v1/messages"):
        assert (answer["type"], bool(error["message"])) == ("error", True)
    else:
        assert error["code"] == "route_not_found"


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages", "/v1/chat/completions"])
def test_errors_raised_before_any_route_have_the_form_of_the_api(shared: Daemon, path: str) -> None:
    request = urllib.request.Request(shared.url + path, b"{}", {"Expect": "nonsense"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    answer = json.load(raised.value)
    error: Any = answer["error"]
    assert raised.value.code == 417
    assert "Expect" in (error if path == "/api/chat" else error["message"])
    assert ("type" in answer) is (path == "/v1/messages")

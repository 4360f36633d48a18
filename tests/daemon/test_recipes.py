"""`GET /api/v1/recipes`: the output of `launch --print` over HTTP."""

import socket
import subprocess

import pytest

from reconciler.recipes.editors import EDITORS
from reconciler.recipes.tools import TOOLS
from tests.conftest import QUESTIONS
from tests.support import Daemon

SECRET = "zirconium"


def recipes(daemon: Daemon, **headers: str) -> dict[str, str]:
    path = "/api/v1/recipes?name=recipes"
    status, answer = daemon.request("GET", path, headers=headers)
    assert status == 200
    return {one["name"]: one["text"] for one in answer["recipes"]}


def test_every_tool_and_editor_has_its_recipe_for_this_daemon(shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "recipes"})
    found = recipes(shared)
    assert set(found) == {"curl", *TOOLS, *EDITORS}
    for name, text in found.items():
        assert shared.url.removeprefix("http://") in text, name
        assert "recipes" in text, name
        assert "TOKEN_FILE" not in text


def test_the_recipe_for_curl_runs(shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "recipes"})
    done = subprocess.run(["sh", "-c", recipes(shared)["curl"]], capture_output=True, check=True)
    assert b'"role":"assistant"' in done.stdout


@pytest.mark.parametrize(
    "header", [{"Authorization": f"Bearer {SECRET}"}, {"x-api-key": SECRET}], ids=min
)
def test_a_token_is_replaced_by_a_placeholder(shared: Daemon, header: dict[str, str]) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "recipes"})
    found = recipes(shared, **header)
    assert SECRET not in str(found)
    assert "$(cat TOKEN_FILE)" in found["curl"]
    assert "TOKEN" in found["continue"]


def test_a_name_is_required_and_must_be_known(shared: Daemon) -> None:
    for query, status in (("", 400), ("?name=nobody", 404)):
        assert shared.request("GET", f"/api/v1/recipes{query}")[0] == status


def test_a_request_without_a_host_is_rejected(shared: Daemon) -> None:
    shared.load({"model": QUESTIONS, "instance_id": "recipes"})
    host, _, port = shared.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"GET /api/v1/recipes?name=recipes HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"Host" in answer

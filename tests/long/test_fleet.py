"""Five daemons as five nodes of one repository, behind a real HAProxy."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.repositories import Origin, Signer
from tests.support import Daemon, Home, environment, eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

MODEL = "tiny/llama"
ROLES = ("prod", "prod", "prod", "test", "test")

FOR_PROD = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {{name: chat}}
spec:
  model: tiny/llama
  config: {{context_length: {context}}}
---
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {{name: only-prod}}
spec:
  model: tiny/qwen3
  node_selector: {{role: prod}}
"""


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "signer")


@pytest.fixture
def origin(tmp_path: Path, signer: Signer) -> Origin:
    origin = Origin(tmp_path / "origin")
    origin.write("fleet/chat.yaml", FOR_PROD.format(context=256))
    origin.commit(*signer.options)
    return origin


@pytest.fixture
def nodes(tmp_path: Path, models: Path, origin: Origin, signer: Signer) -> Iterator[list[Daemon]]:
    allowed = tmp_path / "allowed"
    allowed.write_text(signer.line, "utf-8")
    with ExitStack() as stack:
        found = []
        for i, role in enumerate(ROLES):
            home = Home(tmp_path / f"node{i}", models)
            options = ("--git", origin.url, "--git-path", "fleet", "--git-interval", "1s")
            more = ("--git-verify", str(allowed), "--label", f"role={role}")
            found.append(stack.enter_context(Daemon(home, *options, *more)))
        yield found


def inventory(tmp_path: Path, nodes: list[Daemon]) -> Path:
    file = tmp_path / "inventory.yaml"
    listed = [{"name": f"node{i}", "url": node.url} for i, node in enumerate(nodes)]
    file.write_text(json.dumps({"nodes": listed}), "utf-8")
    return file


def reconciler(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    return done.returncode, done.stdout


def applied(node: Daemon) -> Any:
    return node.get("/api/v1/sources")["sources"][1]["commit"]["applied"]


def test_five_nodes_follow_one_repository(
    nodes: list[Daemon], origin: Origin, signer: Signer, tmp_path: Path
) -> None:
    for node, role in zip(nodes, ROLES, strict=True):
        node.ready("chat")
        if role == "prod":
            node.ready("only-prod")
        else:
            (_, source) = node.get("/api/v1/sources")["sources"]
            assert "role In prod; this node has role test" in source["not_selected"]["only-prod"]
            assert node.loaded() == {"chat"}
    first = origin.git("rev-parse", "HEAD")
    file = inventory(tmp_path, nodes)
    status, output = reconciler("fleet", "status", "--inventory", str(file), "-o", "json")
    summaries = json.loads(output)
    assert status == 0, output
    assert [(s["commits"], s["ready"], s["wanted"]) for s in summaries] == [
        ([first], n, n) for n in (2, 2, 2, 1, 1)
    ]
    origin.write("fleet/chat.yaml", FOR_PROD.format(context=128))
    unsigned = origin.commit()
    for node in nodes:
        node.until(
            lambda node=node: (
                node.get("/api/v1/sources")["sources"][1]["commit"]["attempted"]  # type: ignore[misc]
                == unsigned
            )
        )
        assert applied(node) == first
    assert reconciler("fleet", "status", "--inventory", str(file))[0] == 1
    signed = origin.commit(*signer.options)
    for node in nodes:
        node.ready("chat", 2)
        assert applied(node) == signed


@contextmanager
def proxy(configuration: str, tmp_path: Path, url: str, **environ: str) -> Iterator[None]:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("haproxy is not installed")
    file = tmp_path / "haproxy.cfg"
    file.write_text(configuration, "utf-8")
    env = environment(**environ)
    subprocess.run([program, "-c", "-q", "-f", str(file)], check=True, env=env)
    process = subprocess.Popen([program, "-db", "-f", str(file)], env=env)

    def answers() -> bool:
        assert process.poll() is None, "haproxy has ended"
        return complete(url, "chat")[0] == 200

    try:
        eventually(answers, lambda: configuration)
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Load:
    """Clients that chat without pause."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            status, answer = complete(self._url, "chat")
            if status == 200:
                self.answers += 1
            else:
                self.failures.append(f"{status}: {answer}")

    def wait(self, count: int) -> None:
        """Wait until that many more answers have arrived; only the next has a deadline."""
        end = self.answers + count
        while (last := self.answers) < end:
            eventually(partial(self._has_more, last), lambda: str(self.failures))

    def _has_more(self, than: int) -> bool:
        return self.answers > than

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def complete(url: str, model: str) -> tuple[int, str]:
    body = json.dumps({"model": model, "prompt": [7], "max_tokens": 8}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v1/completions", data=body, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_an_update_and_the_death_of_a_node_under_load_fail_no_request(
    nodes: list[Daemon], origin: Origin, signer: Signer, tmp_path: Path
) -> None:
    for node in nodes:
        node.ready("chat")
    file = inventory(tmp_path, nodes)
    port = free_port()
    arguments = ("fleet", "endpoints", "--inventory", str(file), "--format", "haproxy")
    status, configuration = reconciler(*arguments, "--bind", f"127.0.0.1:{port}")
    assert status == 0
    url = f"http://127.0.0.1:{port}"
    with proxy(configuration, tmp_path, url):
        status, answer = complete(url, "another")
        assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
        load = Load(url)
        try:
            load.wait(50)
            origin.write("fleet/chat.yaml", FOR_PROD.format(context=64))
            origin.commit(*signer.options)
            for node in nodes:
                assert node.ready("chat", 2)["status"]["config"]["context_length"] == 64
            load.wait(50)
            assert load.failures == []
            nodes[0].kill()
            load.wait(200)
            before = list(load.failures)
            load.wait(200)
            assert load.failures == before
            # Requests in flight on that node are lost; those not yet begun went to another node.
            assert len(before) <= 4, before
        finally:
            load.stop()


def test_nodes_that_require_a_token_are_reached_with_it(tmp_path: Path, models: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n", "utf-8")
    file = tmp_path / "inventory.yaml"
    with Daemon(Home(tmp_path / "node", models), "--token-file", str(token)) as node:
        asked = ("--url", node.url, "--token-file", str(token))
        assert reconciler("load", MODEL, "--name", "chat", *asked)[0] == 0
        listed = {"name": "mac", "url": node.url, "token_file": "token"}
        file.write_text(json.dumps({"nodes": [listed]}), "utf-8")
        assert reconciler("fleet", "status", "--inventory", str(file))[0] == 0
        port = free_port()
        arguments = ("fleet", "endpoints", "--inventory", str(file), "--format", "haproxy")
        _, configuration = reconciler(*arguments, "--bind", f"127.0.0.1:{port}")
        assert "secret" not in configuration
        url = f"http://127.0.0.1:{port}"
        with proxy(configuration, tmp_path, url, RECONCILER_TOKEN="secret"):
            assert complete(url, MODEL)[0] == 200
        file.write_text(json.dumps({"nodes": [{"name": "mac", "url": node.url}]}), "utf-8")
        status, output = reconciler("fleet", "status", "--inventory", str(file))
        assert status == 1
        assert "send the daemon's token" in output

"""An instance is replaced while clients send requests without pause: no request fails."""

import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Self

import pytest

from tests.support import Daemon, Home, conditions, parse_events

CLIENTS = 2
CHAT = "/v1/chat/completions"

MANIFEST = (
    "{{apiVersion: reconciler/v1, kind: ModelInstance, metadata: {{name: {name}}}, spec: "
    "{{model: {model}, update_strategy: {strategy}, config: {{context_length: {context}}}}}}}\n"
)


def declare(home: Home, name: str, model: str, strategy: str, context: int) -> None:
    """Save atomically, as editors do: the file is complete at every moment."""
    text = MANIFEST.format(name=name, model=model, strategy=strategy, context=context)
    new = home.manifests / f".{name}.new"
    new.write_text(text, "utf-8")
    new.rename(home.manifests / f"{name}.yaml")


def ask(daemon: Daemon, model: str, *, stream: bool) -> str:
    """A model's answer to a fixed question; an incomplete response is an error."""
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 8, "stream": stream}
    asked["messages"] = [{"role": "user", "content": "What is wanted?"}]
    with daemon.stream(CHAT, asked) as reply:
        if not stream:
            choice = json.load(reply)["choices"][0]
            assert choice["finish_reason"] == "length", choice
            return str(choice["message"]["content"])
        lines = [line.decode().strip().removeprefix("data: ") for line in reply]
    *chunks, done = [line for line in lines if line and not line.startswith(":")]
    assert done == "[DONE]", done
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert choices[-1]["finish_reason"] == "length", choices[-1]
    return "".join(choice["delta"].get("content", "") for choice in choices)


class Clients:
    """Threads that send requests to one instance without pause, streamed every second time."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.name = name
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            number += 1
            try:
                self.answers.append(ask(self.daemon, self.name, stream=number % 2 == 0))
            except urllib.error.HTTPError as error:
                with error:
                    self.failures.append(f"{error.code}: {error.read().decode()}")
            except (OSError, HTTPException, ValueError, KeyError, AssertionError) as error:
                self.failures.append(repr(error))

    def next_answers(self, count: int = 4 * CLIENTS) -> list[str]:
        """Wait for that many more answers and return them."""
        before = len(self.answers)
        self.daemon.until(lambda: len(self.answers) >= before + count or bool(self.failures))
        assert self.failures == []
        return self.answers[before:]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def updated(
    daemon: Daemon, name: str, strategy: str, *updates: tuple[str, int]
) -> Iterator[Clients]:
    """Update an instance of tiny/llama while clients use it; yield the clients."""
    declare(daemon.home, name, "tiny/llama", strategy, 400)
    daemon.ready(name)
    with Clients(daemon, name) as clients:
        clients.next_answers()
        for generation, (model, context) in enumerate(updates, 2):
            declare(daemon.home, name, model, strategy, context)
            record = daemon.ready(name, generation)
            assert record["status"]["config"]["context_length"] == context
            clients.next_answers()
        yield clients
    assert clients.failures == []


def in_force(record: Any) -> int | None:
    """The context length of a ready record, else None."""
    ready = conditions(record)["Ready"] == "True"
    return record["status"]["config"]["context_length"] if ready else None


@pytest.fixture(scope="module")
def own(shared: Daemon) -> dict[str, str]:
    """Answer of each model alone."""
    models = ("tiny/llama", "tiny/qwen3")
    for model in models:
        shared.load({"model": model})
    answers = {model: ask(shared, model, stream=False) for model in models}
    assert len(set(answers.values())) == 2
    for model in models:  # so that updates read weights
        shared.unload(model)
    return answers


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("load-first", marks=pytest.mark.long),
        pytest.param("auto", marks=pytest.mark.long),
        "unload-first",
    ],
)
def test_no_request_fails_while_the_model_of_an_instance_is_replaced(
    shared: Daemon, own: dict[str, str], strategy: str
) -> None:
    """Requests wait while nothing is loaded, as happens with unload-first."""
    there_and_back = [("tiny/qwen3", 400), ("tiny/llama", 400)]
    with updated(shared, f"model-{strategy}", strategy, *there_and_back) as clients:
        clients.next_answers(CLIENTS)  # those in flight when it became ready
        assert set(clients.next_answers()) == {own["tiny/llama"]}
    assert set(clients.answers) == set(own.values())


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("load-first", marks=pytest.mark.long),
        pytest.param("auto", marks=pytest.mark.long),
        "unload-first",
    ],
)
def test_no_request_fails_while_the_settings_of_an_instance_are_replaced(
    shared: Daemon, own: dict[str, str], strategy: str
) -> None:
    name = f"settings-{strategy}"
    contexts = [("tiny/llama", 300), ("tiny/llama", 200), ("tiny/llama", 100)]
    with updated(shared, name, strategy, *contexts) as clients:
        long = {"model": name, "prompt": [7] * 100}
        status, answer = shared.request("POST", "/v1/completions", long)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert set(clients.answers) == {own["tiny/llama"]}


def test_no_request_fails_while_an_instance_is_changed_repeatedly(
    shared: Daemon, own: dict[str, str]
) -> None:
    """Its settings change faster than it can reconfigure."""
    name = "hasty"
    declare(shared.home, name, "tiny/llama", "unload-first", 400)
    shared.ready(name)
    with Clients(shared, name) as clients:
        for context in range(200, 220):
            declare(shared.home, name, "tiny/llama", "unload-first", context)
            clients.next_answers(1)
        shared.eventually(name, lambda record: in_force(record) == 219)
        clients.next_answers()
    assert clients.failures == []
    assert set(clients.answers) == {own["tiny/llama"]}


@pytest.mark.parametrize(
    "strategy", [pytest.param("load-first", marks=pytest.mark.long), "unload-first"]
)
def test_a_kill_during_an_update_that_fails_keeps_the_previous_instance_serving(
    home: Home, own: dict[str, str], strategy: str
) -> None:
    broken = home.root / "damaged" / "x" / "broken"
    shutil.copytree(home.models / "tiny/llama", broken)
    config = json.loads((broken / "config.json").read_bytes()) | {"intermediate_size": 7}
    (broken / "config.json").write_text(json.dumps(config), "utf-8")
    with Daemon(home, "--models", str(home.root / "damaged")) as daemon:
        declare(home, "a", "tiny/llama", strategy, 400)
        daemon.ready("a")
        with urllib.request.urlopen(f"{daemon.url}/api/v1/events", timeout=90) as reply:
            declare(home, "a", "x/broken", strategy, 400)
            update = {"type": "phase", "generation": 2}
            assert any(update.items() <= event.items() for event in parse_events(reply))
            daemon.kill()
        daemon.start()
        record = daemon.eventually(
            "a", lambda r: r["status"]["conditions"][0]["reason"] == "RolledBack"
        )
        assert record["spec"]["model"] == "x/broken"
        assert (record["generation"], record["status"]["observed_generation"]) == (2, 1)
        assert record["status"]["config"]["context_length"] == 400
        assert ask(daemon, "a", stream=True) == own["tiny/llama"]
        assert "an action was interrupted" in daemon.log()

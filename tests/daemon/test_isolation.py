"""Heavy requests and hostile checkpoints next to the streams of others."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import Daemon

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

TOKENS = 30_000
"""Limit of each completion of a stream: less than a minute, which heavy requests may outlast."""

HOSTILE = {
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}
MORE = {
    "memory": "{{ (['a' * 1000000] * 100000) | join }}",
    "numbers": "{{ 'a' * 10000000000 }}{{ range(1000000000) | list }}",
    "formats": "{{ '%999999999s' % 'x' }}{{ '{:>999999999}'.format('x') }}",
    "cycle": "{% set x = [1] %}{% set _ = x.append(x) %}{{ x | tojson }}",
}
ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "comparison": "{% set ns = namespace(n=[1], m=[1]) %}{% for i in range(60) %}"
    "{% set ns.n = [ns.n, ns.n] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.n == ns.m }}",
    "growth": "{% set ns = namespace(n=[1]) %}{% for i in range(60) %}"
    "{% set ns.n = [ns.n, ns.n] %}{% endfor %}{{ ns.n | tojson }}",
}
"""The last two run in C code that holds Python's lock."""


class Stream:
    """A stream without an end, requested again at its limit, and how many events it has had."""

    def __init__(self, daemon: Daemon, model: str) -> None:
        body = {"model": model, "prompt": "a", "stream": True, "ignore_eos": True, "temperature": 1}
        self._ask = partial(daemon.stream, TEXT, body | {"max_tokens": TOKENS})
        self.events = 0
        self._more = threading.Condition()
        self._ended = False
        self._open()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _open(self) -> None:
        reply = self._ask()
        with self._more:
            self._reply = reply
            self._socket = reply.fp.raw._sock  # type: ignore[attr-defined]
            if self._ended:
                self._socket.shutdown(2)

    def _read(self) -> None:
        while self._read_to_the_limit():
            self._reply.close()
            self._open()

    def _read_to_the_limit(self) -> bool:
        """False if the stream ended before its limit."""
        for line in self._reply:
            if line.startswith(b"data: {"):
                with self._more:
                    self.events += 1
                    self._more.notify_all()
                if b'"finish_reason":"length"' in line:
                    return True
        return False

    def next(self, number: int) -> None:
        """Wait for `number` more events."""
        with self._more:
            last = self.events + number
            assert self._more.wait_for(lambda: self.events >= last, 60)

    def end(self) -> None:
        with self._more, suppress(OSError):  # the socket is closed if the stream has ended
            self._ended = True
            self._socket.shutdown(2)
        self._thread.join()
        self._reply.close()


@contextmanager
def streaming(daemon: Daemon, model: str) -> Iterator[Stream]:
    stream = Stream(daemon, model)
    stream.next(5)
    try:
        yield stream
    finally:
        stream.end()


@pytest.fixture(scope="module")
def llama(shared: Daemon) -> Daemon:
    shared.load({"model": "tiny/llama", "context_length": 32_000})
    return shared


def chat(*contents: Any, **more: Any) -> bytes:
    turns = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": "tiny/llama", "messages": turns} | more).encode()


def heavy() -> Iterator[Any]:
    """Functions that make heavy bodies, with the error's param; bodies are made in the test."""
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 50}}
    bodies: dict[str, tuple[Callable[[], bytes], str]] = {
        "text": (lambda: chat("word " * 3_000_000), "messages"),
        "line breaks": (lambda: chat("\n" * 7_000_000), "messages"),
        "messages": (lambda: chat(*["hello"] * 100_000), "messages"),
        "stops": (lambda: chat("a", stop=[chr(97 + i) * 900_000 for i in range(16)]), "stop[0]"),
        "tools": (lambda: chat("a", tools=[tool] * 10_000), "messages"),
        "bias": (
            lambda: chat("a", logit_bias=dict.fromkeys(map(str, range(900_000)), 1)),
            "logit_bias",
        ),
        "lists": (
            lambda: b'{"model": "tiny/llama", "x": [' + b"[]," * 4_900_000 + b"1]}",
            "messages",
        ),
        "halves": (
            lambda: b'{"model": "tiny/llama", "x": "' + b"\\ud83d" * 900_000 + b'"}',
            "messages",
        ),
        "parts": (lambda: chat([{"type": "text", "text": "a"}] * 300_000), "messages"),
        "ids": (
            lambda: b'{"model": "tiny/llama", "messages": [' + b"1," * 7_000_000 + b"1]}",
            "messages[0]",
        ),
        "depth": (
            lambda: chat(chat_template_kwargs={"a": json.loads("[" * 60 + "]" * 60)}),
            "messages",
        ),
    }
    for name, (make, param) in bodies.items():
        marks = () if name == "stops" else (pytest.mark.long,)  # the test below covers lists
        yield pytest.param(make, param, id=name, marks=marks)


@pytest.mark.parametrize(("make", "param"), list(heavy()))
def test_a_heavy_request_is_refused_without_delaying_a_stream(
    llama: Daemon, make: Callable[[], bytes], param: str
) -> None:
    body = make()
    workers = [worker.pid for worker in llama.workers()]
    with streaming(llama, "tiny/llama") as stream:
        status, answer = llama.request("POST", CHAT, body)
        assert (status, answer["error"]["param"]) == (400, param)
        stream.next(5)
    assert [worker.pid for worker in llama.workers()] == workers


def test_a_stream_goes_on_while_a_heavy_request_is_parsed(llama: Daemon) -> None:
    """The parsing of these lists holds Python's lock without interruption."""
    body = b'{"model": "tiny/llama", "x": [' + b"[]," * 2_000_000 + b"1]}"
    workers = [worker.pid for worker in llama.workers()]
    with streaming(llama, "tiny/llama") as stream:
        before = stream.events
        status, answer = llama.request("POST", CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "messages")
        assert stream.events > before + 5
    assert [worker.pid for worker in llama.workers()] == workers


def hostile(daemon: Daemon, name: str, template: str) -> str:
    """A loaded checkpoint with that chat template."""
    model = Path(daemon.home.models) / "hostile" / name
    shutil.copytree(Path(daemon.home.models) / "tiny/llama", model)
    (model / "chat_template.jinja").write_text(template, "utf-8")
    daemon.load({"model": f"hostile/{name}", "context_length": 512})
    return f"hostile/{name}"


@pytest.mark.parametrize(
    "name", [*HOSTILE, *(pytest.param(name, marks=pytest.mark.long) for name in MORE)]
)
def test_a_hostile_template_fails_only_its_own_requests(llama: Daemon, name: str) -> None:
    model = hostile(llama, name, (HOSTILE | MORE)[name])
    with streaming(llama, "tiny/llama") as stream:
        body = {"model": model, "messages": [{"role": "user", "content": "a"}]}
        status, answer = llama.request("POST", CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "messages"), answer
        status, answer = llama.request("POST", TEXT, {"model": model, "prompt": "a"})
        assert status == 200, answer
        stream.next(5)
    llama.unload(model)


def test_a_dead_worker_is_detected_although_its_preprocessing_hangs(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "victim", "context_length": 300})
    worker = psutil.Process(shared.ready("victim")["status"]["worker_pid"])
    children = worker.children()
    assert children
    for child in children:
        child.send_signal(signal.SIGSTOP)
    try:
        worker.kill()
        shared.eventually("victim", lambda record: record["status"]["restarts"] > 0)
    finally:
        for child in children:
            child.kill()
    shared.ready("victim")
    shared.unload("victim")


@pytest.mark.long
@pytest.mark.parametrize("name", list(ENDLESS))
def test_an_endless_template_fails_only_its_own_requests(llama: Daemon, name: str) -> None:
    model = hostile(llama, name, ENDLESS[name])
    workers = [worker.pid for worker in llama.workers()]
    chat_body = {"model": model, "messages": [{"role": "user", "content": "a"}]}
    with streaming(llama, model) as stream:
        for _ in range(2):
            status, answer = llama.request("POST", CHAT, chat_body)
            assert (status, answer["error"]["param"]) == (400, "messages"), answer
            assert llama.request("POST", TEXT, {"model": model, "prompt": "a"})[0] == 200
        stream.next(5)
    assert [worker.pid for worker in llama.workers()] == workers
    llama.unload(model)

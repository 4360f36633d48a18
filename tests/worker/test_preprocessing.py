"""Test that prompts are rendered in a separate process, whose death does not harm the worker."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from reconciler.core.dialects import Dialect
from reconciler.core.reranker import QWEN3
from reconciler.demo import DEMO_MODEL
from reconciler.worker.chat import bounded
from reconciler.worker.errors import RequestError, UnavailableError
from reconciler.worker.preprocessing import lane as lanes
from reconciler.worker.preprocessing import pool
from reconciler.worker.preprocessing.__main__ import end_without
from reconciler.worker.preprocessing.messages import (
    HEADER,
    Embed,
    Failed,
    Prepare,
    Render,
    Text,
    decode_reply,
    decode_request,
    request_frame,
)
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.preprocessing.process import Process, UnansweredError, kill_all
from reconciler.worker.preprocessing.tokenizer import BackendTokenizer, describe
from reconciler.worker.preprocessing.work import Work
from reconciler.worker.prompt import Prompts
from reconciler.worker.request import parse

CONTEXT = 4096


def body(text: str = "Hello", **more: Any) -> bytes:
    return msgspec.json.encode({"messages": [{"role": "user", "content": text}]} | more)


def started() -> Preprocessor:
    tokenizer = load_tokenizer(DEMO_MODEL)
    made = Preprocessor()
    made.set_up(tokenizer)
    made.bind(tokenizer, len(tokenizer.get_vocab()), rewinds=False)
    return made


@pytest.fixture(scope="module")
def shared() -> Iterator[Preprocessor]:
    """A shared preprocessor, which each test leaves usable."""
    made = started()
    yield made
    made.close()


class TestSame:
    """The process renders the same prompts as the worker would."""

    def test_prompts_of_chats_and_texts_are_equal(self, shared: Preprocessor) -> None:
        tokenizer = load_tokenizer(DEMO_MODEL)
        prompts = Prompts(tokenizer, len(tokenizer.get_vocab()))
        schema = b'{"type": "object", "properties": {}, "maxProperties": 1%s}' % (b"0" * 100)
        tool = b'{"type": "function", "function": {"name": "f", "parameters": %s}}' % schema
        messages = b'{"messages": [{"role": "user", "content": "a"}], "tools": [%s]}' % tool
        chats = [body("What is é \U0001f600?"), body("Hi", reasoning_effort="none"), messages]
        texts = [msgspec.json.encode({"prompt": "once"}), b'{"prompt": [1, 2, 3], "stop": "x"}']
        for data, chat in [*((one, True) for one in chats), *((one, False) for one in texts)]:
            dialect = Dialect.CHAT if chat else Dialect.TEXT
            submitted = shared.submit(data, {"max_tokens": 5}, CONTEXT, dialect=dialect)
            parsed, prompt = submitted.result()
            here = parse(data, {"max_tokens": 5}, chat=chat)
            assert prompt == prompts.build(here, CONTEXT, chat=chat)
            assert (parsed.max_tokens, parsed.stops) == (5, here.stops)
            assert parsed.messages is None

    def test_tokens_equal_those_of_transformers(self) -> None:
        tokenizer = load_tokenizer(DEMO_MODEL)
        setup = describe(tokenizer)
        assert setup is not None
        lean = BackendTokenizer(setup)
        for text in ("", " a  b\n\n", "<|im_start|>user\n", "日本語", "\U0001f600é", "x" * 5000):
            for special in (True, False):
                expected = tokenizer.encode(text, add_special_tokens=special)
                assert lean.encode(text, add_special_tokens=special) == expected

    def test_errors_are_request_errors(self, shared: Preprocessor) -> None:
        with pytest.raises(RequestError, match="temperature") as raised:
            shared.submit(body(temperature=9), {}, CONTEXT).result()
        assert (raised.value.code, raised.value.param) == ("invalid_value", "temperature")
        with pytest.raises(RequestError, match="no more than") as raised:
            shared.submit(body("a " * 1_000_000), {}, CONTEXT).result()
        assert raised.value.code == "context_length_exceeded"

    def test_a_tokenizer_whose_template_is_code_stays_in_the_worker(self) -> None:
        tokenizer = load_tokenizer(DEMO_MODEL)._tokenizer
        assert describe(TokenizerWrapper(tokenizer, chat_template=lambda *_, **__: "a")) is None
        assert describe(TokenizerWrapper(tokenizer)) is not None


def stopped(process: Any, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Stop a process; the event is set when a request has been written to it."""
    os.kill(process.pid, signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    written, write = threading.Event(), process._write

    def write_and_set(*arguments: Any) -> None:
        write(*arguments)
        written.set()

    monkeypatch.setattr(process, "_write", write_and_set)
    return written


class TestIsolation:
    def test_a_process_that_dies_fails_its_request_alone(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared.submit(body(), {}, CONTEXT).result()
        process = shared._short._process
        assert process is not None
        written = stopped(process, monkeypatch)
        waiting = shared.submit(body(), {}, CONTEXT)
        after = shared.submit(body(), {}, CONTEXT)
        assert written.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="ended with exit code -9; retry"):
            waiting.result()
        _, prompt = after.result()
        assert prompt.tokens

    def test_a_detection_that_is_killed_from_outside_is_retried_at_once(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared.submit(body(), {}, CONTEXT).result()
        shared._short._learned = False
        process = shared._short._process
        assert process is not None
        written = stopped(process, monkeypatch)
        waiting = shared.submit(body(), {}, CONTEXT)
        assert written.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="ended with exit code -9"):
            waiting.result()
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens

    def test_a_process_that_cannot_be_started_is_an_error(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared._short.submit(shared._short.end).result()

        def refuse(*_: object, **__: object) -> None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        monkeypatch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(UnavailableError, match="temporarily unavailable"):
            shared.submit(body(), {}, CONTEXT).result()
        # Prompts are not rendered in the worker instead.
        with pytest.raises(UnansweredError, match="temporarily unavailable"):
            shared.set_up(load_tokenizer(DEMO_MODEL))
        monkeypatch.undo()
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens

    def test_modules_in_the_working_directory_do_not_shadow_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("reconciler", "msgspec"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit(3)", "utf-8")
        monkeypatch.chdir(tmp_path)
        process = Process()
        assert process.ask(Render("{{ 7 }}", [], {}, 10), 60) == Text("7")
        process.end()

    def test_all_processes_are_killed_before_the_worker_exits(self) -> None:
        one = Process()
        os.kill(one.pid, signal.SIGSTOP)
        kill_all()
        assert one._child.wait(10) == -signal.SIGKILL

    def test_a_process_ends_after_its_worker_without_help_of_the_kernel(self) -> None:
        parents = [7, 7, 1]
        ended: list[int] = []
        end_without(7, lambda: parents.pop(0), lambda _: None, ended.append)
        assert (parents, ended) == ([], [0])

    def test_a_process_that_takes_too_long_is_killed_by_the_kernel(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared.submit(body(), {}, CONTEXT).result()
        process = shared._short._process
        monkeypatch.setattr(pool, "SECONDS", 0.001)
        text = msgspec.json.encode({"prompt": "word " * 40_000})
        with pytest.raises(RequestError, match=r"did not finish within 0\.001 s") as raised:
            shared.submit(text, {}, dialect=Dialect.TEXT).result()
        assert raised.value.status == 400
        monkeypatch.undo()
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens
        assert shared._short._process is not process

    def test_a_detection_that_ends_the_process_is_not_retried_at_each_request(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared.submit(body(), {}, CONTEXT).result()
        shared._short.submit(shared._short.end).result()
        monkeypatch.setattr(lanes, "LEARN_SECONDS", 0.0001)
        for _ in range(2):
            with pytest.raises(RequestError, match="did not finish within"):
                shared.submit(body(), {}, CONTEXT).result()
            monkeypatch.setattr(lanes, "LEARN_SECONDS", 30.0)
        assert (
            shared.submit(b'{"prompt": "a"}', {}, CONTEXT, dialect=Dialect.TEXT).result()[1].tokens
        )
        shared._facts.retry_at = 0.0
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens

    def test_long_requests_have_a_separate_process(self) -> None:
        long = msgspec.json.encode({"prompt": "word " * (pool.LONG // 5)})
        with closing(started()) as own:
            own.submit(body(), {}, CONTEXT).result()
            assert own._long.memory() == 0
            own.submit(long, {}, dialect=Dialect.TEXT).result()
            assert own._long.memory() > 0
            assert own.memory() > own._short.memory() > 0
            processes = [lane._process for lane in (own._short, own._long)]
            lower = [psutil.Process(one.pid).nice() - os.nice(0) for one in processes if one]
            assert lower == [0, pool.NICE]

    def test_garbage_is_not_collected_during_the_parsing_of_a_request(self) -> None:
        """The collector traversed 5 million lists again and again: seconds instead of 0.3 s."""
        watched = (
            "import gc, os; gc.callbacks.append(lambda phase, info: os.write(2, b'%d' % "
            "info['generation']) if phase == 'start' else None); "
            "from reconciler.worker.preprocessing.__main__ import main; "
            "gc.collect(); os.write(2, b'begins'); main()"
        )
        turns: list[dict[str, Any]] = [{"a": []} for _ in range(5_000)]
        frame, _ = request_frame(Render("{{ 7 }}", turns, {}, 10), 60)
        command = [sys.executable, "-c", watched, str(os.getpid()), "0"]
        done = subprocess.run(command, input=frame, capture_output=True, check=True, timeout=60)
        assert done.stderr.partition(b"begins")[2] == b"2"  # a collection, once it was answered
        assert decode_reply(done.stdout[HEADER.size :]) == Text("7")

    def test_a_body_is_sent_unchanged_beside_the_message(self) -> None:
        """A copy of 15 MB into the message held the interpreter's lock for 20 ms."""
        text = body("word " * 1_000)
        request = Prepare(text, {}, CONTEXT, Dialect.CHAT)
        frame, sent = request_frame(request, 60)
        assert sent is text
        assert len(frame) < 200
        size, body_size, _ = HEADER.unpack(frame[: HEADER.size])
        assert (size, body_size) == (len(frame) - HEADER.size, len(text))
        assert decode_request(frame[HEADER.size :], sent) == request

    def test_later_requests_do_not_wait_for_a_slow_short_request(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "SLOW_SECONDS", 0.0)
        begun, gate = threading.Event(), threading.Event()

        def slow() -> None:
            begun.set()
            gate.wait(60)

        taking_long = shared._short.submit(slow)
        begun.wait(60)
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens
        assert not taking_long.done()
        gate.set()

    def test_waiting_bodies_take_bounded_memory(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool, "MAX_WAITING_BYTES", 3 * len(body()))
        gate = threading.Event()
        for lane in (shared._short, shared._long):
            lane.submit(lambda: gate.wait(60))
        waiting = [shared.submit(body(), {}, CONTEXT) for _ in range(3)]
        with pytest.raises(UnavailableError, match=f"{3 * len(body())} bytes are waiting"):
            shared.submit(body(), {}, CONTEXT)
        gate.set()
        assert all(one.result()[1].tokens for one in waiting)
        # A single body may exceed the limit.
        assert shared.submit(body(), {}, CONTEXT).result()[1].tokens

    def test_waiting_reranking_bodies_count_towards_the_limit(
        self, shared: Preprocessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ranked = msgspec.json.encode({"query": "a", "documents": ["b"]})
        monkeypatch.setattr(pool, "MAX_WAITING_BYTES", len(ranked))
        gate = threading.Event()
        for lane in (shared._short, shared._long):
            lane.submit(lambda: gate.wait(60))
        try:
            waiting = shared.rank(ranked, QWEN3, CONTEXT)
            with pytest.raises(UnavailableError, match=f"{len(ranked)} bytes are waiting"):
                shared.rank(ranked, QWEN3, CONTEXT)
        finally:
            gate.set()
        waiting.exception()

    def test_many_requests_run_concurrently(self, shared: Preprocessor) -> None:
        with ThreadPoolExecutor(8) as threads:
            texts = [f"number {i}" for i in range(40)]
            made = threads.map(lambda t: shared.submit(body(t), {}).result()[1], texts)
            assert len({tuple(prompt.tokens) for prompt in made}) == len(texts)


def test_a_reply_reports_code_that_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a compilation in C code, which cannot be interrupted."""
    monkeypatch.setattr(bounded, "_threads", [])
    work, ended = Work(), threading.Event()
    failing = Embed(b"", None, Dialect.EMBEDDINGS)
    idle = work.answer(failing)
    assert isinstance(idle, Failed)
    assert not idle.busy
    with pytest.raises(TimeoutError):
        bounded.call(ended.wait, 0, "a test")
    reply = work.answer(failing)
    assert isinstance(reply, Failed)
    assert reply.busy
    (thread,) = bounded._threads
    ended.set()
    thread.join()
    assert not bounded.is_running()


def test_a_process_that_is_still_busy_after_its_reply_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Busy:
        alive, bloated, ended = True, False, False

        def ask(self, _request: object, _seconds: float) -> Failed:
            return Failed("too slow", timed_out=True, busy=True)

        def end(self) -> None:
            self.ended = True

    process = Busy()
    monkeypatch.setattr(lanes, "Process", lambda _nice: process)
    lane = lanes.Lane(lanes.Facts())
    lane.ask(Render("", [], {}, 0), 1.0)
    assert process.ended


def test_a_job_that_uses_too_much_cpu_time_is_given_up() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError):
        bounded.call(ended.wait, 3600, "a test", cpu_seconds=0)
    assert bounded.call(lambda: 5, 3600, "a test", cpu_seconds=3600) == 5
    ended.set()

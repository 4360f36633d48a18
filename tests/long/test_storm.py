"""A storm of file changes, HTTP loads and kill -9; after each round the daemon must agree."""

import os
import random
import signal
import time
from functools import partial
from http.client import HTTPException
from typing import Any

import psutil
import pytest

from tests.support import Daemon, Home, conditions, eventually

ROUNDS = 25
MODELS = ["tiny/llama", "tiny/llama-4bit", "tiny/qwen3", "tiny/qwen3_moe", "openai/gpt-oss-20b"]


class Storm:
    """What was done, and what must come of it."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.files: dict[str, tuple[str, int]] = {}
        self.http: dict[str, tuple[str, int]] = {}
        self.unsure: set[str] = set()
        self.write("anchor", "tiny/llama", 100)

    def change(self) -> None:
        """One random change of desired state."""
        roll = self.random.random()
        wish = (self.random.choice(MODELS), self.random.randint(8, 4000))
        if roll < 0.45:
            name = f"file-{self.random.randrange(4)}"
            self.write(name, *wish)
            if self.random.random() < 0.3:
                (self.daemon.home.manifests / f"{name}.yaml").unlink()
                del self.files[name]
        elif roll < 0.85:
            self.load(f"http-{self.random.randrange(4)}", *wish)
        elif self.http:
            self.unload(self.random.choice(sorted(self.http)))

    def write(self, name: str, model: str, context_length: int) -> None:
        self.daemon.home.write(
            f"{name}.yaml", name=name, model=model, context_length=context_length
        )
        self.files[name] = (model, context_length)

    def load(self, name: str, model: str, context_length: int) -> None:
        body = {"model": model, "instance_id": name, "config": {"context_length": context_length}}
        try:
            status, answer = self.daemon.request("POST", "/api/v1/models/load", body)
        except (OSError, HTTPException):
            self.unsure.add(name)
            self.http.pop(name, None)
        else:
            assert status == 200, answer
            self.http[name] = (model, context_length)
            self.unsure.discard(name)

    def unload(self, name: str) -> None:
        try:
            self.daemon.unload(name)
        except (OSError, HTTPException):
            self.unsure.add(name)
        else:
            self.unsure.discard(name)
        self.http.pop(name, None)

    def kill_something(self) -> None:
        """The daemon or a worker of its own, in the middle of whatever it does."""
        self.write("anchor", self.random.choice(MODELS), self.random.randint(8, 4000))
        time.sleep(self.random.random() / 2)  # the moment is the point
        if self.random.random() < 0.6:
            self.daemon.kill()
            self.daemon.start()
        else:
            for worker in self.daemon.workers()[:1]:
                os.kill(worker.pid, signal.SIGKILL)

    def check(self) -> None:
        """Every wish that was acknowledged is met, and nothing else is loaded."""
        for name in sorted(self.unsure):
            self.unload(name)
        for name, (model, context_length) in (self.files | self.http).items():
            self.daemon.eventually(name, partial(_meets, model, context_length))
        expected = {*self.files, *self.http}
        for name in {r["name"] for r in self.daemon.get("/api/v1/records")["records"]} - expected:
            self.daemon.gone(name)
        # A worker that was just killed may not have been missed yet when its record was read.
        eventually(lambda: self.daemon.loaded() == expected, self.daemon.log)


def _meets(model: str, context_length: int, record: Any) -> bool:
    wanted = {"model": model, "config": {"context_length": context_length}}
    if record["spec"] != wanted or conditions(record)["Ready"] != "True":
        return False
    assert record["status"]["config"]["context_length"] == context_length
    return True


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_with_kills_converges_to_what_was_acknowledged(home: Home, seed: int) -> None:
    with Daemon(home) as daemon:
        storm = Storm(daemon, seed)
        for _ in range(ROUNDS):
            for _ in range(storm.random.randint(1, 5)):
                storm.change()
            storm.kill_something()
            storm.check()
            distinct = {m for m, _ in (storm.files | storm.http).values()}
            assert len(daemon.workers()) <= len(distinct) + 1  # and the spare
        assert "Traceback" not in daemon.log()
        workers = daemon.workers()
        daemon.stop()
        assert not any(psutil.pid_exists(w.pid) for w in workers)

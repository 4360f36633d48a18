"""Randomly changed checkpoints: each causes at most an error of its own."""

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.records import ModelRef, RequestedSettings
from reconciler.core.settings import resolve
from reconciler.models.catalog import Catalog
from reconciler.models.checkpoint import read_facts
from reconciler.models.places import Directory
from tests.mutations import mutate
from tests.support import Daemon, Home

KINDS = ("tiny/llama", "tiny/llama-4bit", "tiny/qwen3_moe", "tiny/deepseek_v3", "tiny/mamba")
TIMES = 1200
"""Mutations of each kind."""

IN_A_DAEMON = 40

MACHINE = Machine("cpu", "test", 10**12, "0")


ITS_OWN = (Reason.INVALID_CHECKPOINT, Reason.IMPOSSIBLE_SETTING, Reason.INSUFFICIENT_MEMORY)


def look(path: Path, story: str) -> Problem | None:
    """Read a checkpoint's facts and decide its settings; return the problem that prevents it."""
    try:
        facts = read_facts(path)
        assert msgspec.json.decode(msgspec.json.encode(facts), type=Checkpoint) == facts, story
        resolved = resolve(RequestedSettings(), facts, MACHINE)
        assert len(msgspec.json.encode(resolved)) < 10_000, story
    except LoadError as error:
        return error.problem
    except Exception as error:
        raise AssertionError(story) from error
    return None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_checkpoint_yields_valid_facts_or_an_error_of_its_own(
    models: Path, tmp_path: Path, kind: str
) -> None:
    chance, refused = random.Random(kind), 0
    for number in range(TIMES):
        path = tmp_path / str(number)
        shutil.copytree(models / kind, path)
        story = mutate(path, chance)
        problem = look(path, story)
        refused += problem is not None
        if problem is not None:
            assert len(msgspec.json.encode(problem)) < 4000, story
            assert problem.message.isprintable(), story
            assert problem.reason in ITS_OWN, story
        shutil.rmtree(path)
    assert TIMES // 10 < refused < TIMES * 9 // 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_daemon_with_mutated_checkpoints_serves_the_healthy_one(home: Home) -> None:
    """Checkpoints whose files are accepted go to workers; faults there must stay theirs."""
    chance, root = random.Random(1), home.root / "mutated"
    sources = [home.models / "tiny/llama", home.models / "reconciler/questions"]
    names: list[str] = []
    attempt = 0
    while len(names) < IN_A_DAEMON:
        attempt += 1
        path = root / "m" / str(attempt)
        shutil.copytree(sources[attempt % 2], path)
        mutate(path, chance)
        try:
            Catalog([Directory(root)]).find(ModelRef(f"m/{attempt}"))
            names.append(f"m/{attempt}")
        except LoadError:
            if chance.random() < 0.9:  # some stay, to be listed
                shutil.rmtree(path)
    with Daemon(home, "--models", str(root)) as daemon:
        home.write("healthy.yaml", name="healthy", model="tiny/llama")
        daemon.ready("healthy")
        expected = answer(daemon, "healthy")
        for name in names:
            loading = threading.Thread(target=use, args=(daemon, name))
            loading.start()
            assert answer(daemon, "healthy") == expected
            loading.join()
        assert daemon.ready("healthy")["status"]["restarts"] == 0
        assert answer(daemon, "healthy") == expected
        assert daemon.get("/health")["status"] == "ok"
        assert len(daemon.get("/api/v1/models")["models"]) > len(names)
        assert daemon.loaded() == {"healthy"}
        assert daemon.stop() == 0
        assert "unexpectedly" not in daemon.log()
        assert "Traceback" not in daemon.log()


def answer(daemon: Daemon, model: str) -> Any:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    status, result = daemon.request("POST", "/v1/chat/completions", body)
    assert status < 500 or model != "healthy", result
    return result["choices"] if status == 200 else result["error"]["code"]


def use(daemon: Daemon, name: str) -> None:
    """Load, send a request, unload; `request` checks that errors have the standard form."""
    status, result = daemon.request("POST", "/api/v1/models/load", {"model": name})
    if status == 200:
        answer(daemon, result["instance_id"])
        daemon.unload(result["instance_id"])

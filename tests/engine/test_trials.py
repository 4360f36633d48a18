"""Results of batching trials that a reload of the same files uses again."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from structlog.testing import capture_logs

from reconciler.core.facts import Checkpoint
from reconciler.core.protocol import LoadWeights, WeightsLoaded
from reconciler.core.records import LoadSpec, Progress, RequestedSettings
from reconciler.core.settings import resolve
from reconciler.engine import sockets, trials
from reconciler.engine.engine import Engine
from reconciler.engine.holders import Holders
from reconciler.engine.process import WorkerProcess
from reconciler.engine.prompt_disk import PromptDisk
from reconciler.engine.trials import Trials
from reconciler.models.checkpoint import read_facts


def test_results_belong_to_one_revision_of_a_checkpoint() -> None:
    known = Trials()
    known.remember("/a", "1", ("x",))
    known.remember("/a", "1", ("y",))
    known.remember("/a", "1", ())
    assert known.passed("/a", "1") == ("x", "y")
    assert known.passed("/a", "2") == known.passed("/b", "1") == ()
    known.remember("/a", "2", ("z",))
    assert known.passed("/a", "2") == ("z",)
    assert known.passed("/a", "1") == ()


def test_the_oldest_checkpoint_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "CHECKPOINTS", 2)
    known = Trials()
    for path in ("/a", "/b", "/a", "/c"):
        known.remember(path, "1", ("x",))
    assert [known.passed(path, "1") for path in ("/a", "/b", "/c")] == [("x",), (), ("x",)]


@pytest.mark.long
async def test_only_a_reload_of_the_same_files_does_not_repeat_the_trial(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a commit that were changed on disk counted as the same."""
    commands: list[LoadWeights] = []
    load_weights = WorkerProcess.load_weights

    async def noted(self: WorkerProcess, command: LoadWeights, *rest: Any) -> Any:
        commands.append(command)
        return await load_weights(self, command, *rest)

    monkeypatch.setattr(WorkerProcess, "load_weights", noted)
    directory = sockets.prepare(tmp_path)
    engine = Engine(directory, lambda _instance, _problem: None, spare=False)
    checkpoint = replace(read_facts((models / "tiny/llama").resolve()), commit="a" * 40)
    resolved = resolve(RequestedSettings(), checkpoint, await engine.machine())

    async def load(checkpoint: Checkpoint) -> None:
        def ignore(_: Progress) -> None: ...

        await engine.load("a", LoadSpec("tiny/llama"), checkpoint, resolved, ignore)

    await load(checkpoint)
    await engine.unload("a")
    await load(checkpoint)
    await engine.unload("a")
    await load(replace(checkpoint, fingerprint="other"))
    assert [len(command.together) for command in commands] == [0, 1, 0]
    await engine.close()
    sockets.remove(directory)


async def test_files_that_change_while_they_are_read_have_no_fingerprint(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KV caches of the files before, which are on disk, were used with the new weights."""
    path = Path(shutil.copytree(models / "tiny/llama", tmp_path / "llama"))
    checkpoint = read_facts(path)

    class Worker:
        async def load_weights(self, *_: Any) -> WeightsLoaded:
            (path / "model.safetensors").touch()
            return WeightsLoaded({}, 1)

    async def take() -> Any:
        return Worker()

    unused: Any = None
    pool: Any = SimpleNamespace(take=take)
    holders = Holders(pool, 1.0, unused, unused)
    monkeypatch.setattr(holders, "_note_log", Mock())
    monkeypatch.setattr(holders, "_watch", AsyncMock())
    with capture_logs() as logs:
        holder = await holders.hold("a", checkpoint, "1", 0.0, {}, lambda _: None)
    assert holder.fingerprint is None
    assert [line["event"] for line in logs] == ["files changed while they were read"]
    holders.remember_trial(holder, ("x",))
    assert holders._trials.passed(checkpoint.path, checkpoint.fingerprint) == ()
    engine = Engine(
        tmp_path, lambda _instance, _problem: None, prompts=PromptDisk(tmp_path / "prompts", 1)
    )
    assert engine._store(checkpoint, holder) is None
    holder.fingerprint = checkpoint.fingerprint
    assert engine._store(checkpoint, holder) is not None

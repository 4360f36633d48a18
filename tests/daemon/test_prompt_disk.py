"""Prompts that survive on disk, with a real daemon: unloads, restarts, crashes, removal."""

import fcntl
import signal
import urllib.request
from pathlib import Path

import pytest

from tests import architectures, tiny
from tests.support import Daemon, Home, copied

LLAMA, SLIDING, RECURRENT = "tiny/llama", "openai/gpt-oss-20b", "tiny/mamba"
SYSTEM = "What is asked for is honoured, or the answer says why it is not. " * 16


def ask(daemon: Daemon, model: str, text: str = "What is wanted?") -> tuple[str, int]:
    """The greedy answer of a conversation, and the prompt's tokens that were found."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
    status, answer = daemon.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], cached


def metric(daemon: Daemon, name: str) -> float:
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=60) as reply:
        lines = [line.rsplit(" ", 1) for line in reply.read().decode().splitlines()]
    return sum(float(line[1]) for line in lines if line[0].startswith(name))


def stored(home: Home) -> list[Path]:
    return list(home.prompts.glob("*/*.safetensors"))


def test_a_prompt_survives_an_unload_and_goes_with_its_model(shared: Daemon) -> None:
    key = "maker/kept"
    folder = shared.home.hub_cache / "models--maker--kept"
    tiny.make("llama", folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40, "utf-8")
    before = set(shared.home.prompts.iterdir()) if shared.home.prompts.exists() else set()
    answers = []
    for _ in range(2):
        shared.load({"model": key})
        answers.append(ask(shared, key))
        assert shared.unload(key)[0] == 200
    (expected, none), (answer, cached) = answers
    assert (answer, none) == (expected, 0)
    assert cached > 400
    (own,) = {
        path
        for path in set(shared.home.prompts.iterdir()) - before
        if path.is_dir() and (path / "checkpoint").read_text("utf-8").startswith(str(folder))
    }
    size = sum(file.stat().st_size for file in own.iterdir())
    assert metric(shared, "reconciler_prompt_cache_bytes") >= size - 1000
    status, answer = shared.request("DELETE", f"/api/v1/checkpoints/{key}")
    assert status == 200, answer
    assert not own.exists()
    left = sum(file.stat().st_size for file in stored(shared.home))
    assert metric(shared, "reconciler_prompt_cache_bytes") == left


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prompts_of_every_kind_of_model_survive_a_restart(home: Home, number: int) -> None:
    gemma, qwen = "own/gemma3", "own/qwen3_5"
    for key, name in ((gemma, "gemma3_text"), (qwen, "qwen3_5")):
        tiny.write(architectures.config(name), home.lm_studio / "models" / key)
    models = (LLAMA, SLIDING, RECURRENT, gemma, qwen)
    with Daemon(home) as daemon:
        for model in models:
            daemon.load({"model": model})
        first = {model: ask(daemon, model) for model in models}
        assert daemon.stop(number) == 0
        daemon.start()
        for model in models:
            daemon.ready(model)
        again = {model: ask(daemon, model) for model in models}
        other = {model: ask(daemon, model, "Something else.")[1] for model in models}
        for model in models:
            assert again[model][0] == first[model][0]
            assert (first[model][1], again[model][1] > 400, other[model] > 400) == (0, True, True)
        assert metric(daemon, "reconciler_disk_cached_tokens_total") > 400 * len(models)


@pytest.mark.long
def test_prompts_survive_the_death_of_a_worker_and_of_the_daemon(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": LLAMA})
        expected, _ = ask(daemon, LLAMA)
        daemon.until(lambda: len(stored(home)) >= 5)
        (worker,) = daemon.workers()
        worker.kill()
        daemon.eventually(LLAMA, lambda r: r["status"]["worker_pid"] not in (None, worker.pid))
        daemon.ready(LLAMA)
        assert ask(daemon, LLAMA)[1] > 400
        daemon.kill()
        daemon.start()
        daemon.ready(LLAMA)
        answer, cached = ask(daemon, LLAMA)
        assert (answer, cached > 400) == (expected, True)


@pytest.mark.long
def test_damaged_files_and_changed_models_are_never_used(home: Home) -> None:
    with Daemon(home) as daemon:
        copied(daemon, "own/one")
        daemon.load({"model": "own/one"})
        expected, _ = ask(daemon, "own/one")
        daemon.unload("own/one")
        for file in stored(home):
            data = bytearray(file.read_bytes())
            data[-5] ^= 4
            file.write_bytes(data)
        daemon.load({"model": "own/one"})
        assert ask(daemon, "own/one") == (expected, 0)
        daemon.unload("own/one")
        path = home.lm_studio / "models" / "own/one"
        tiny.write(tiny._BASE | {"model_type": "llama", "rope_theta": 500}, path)
        daemon.load({"model": "own/one"})
        assert ask(daemon, "own/one")[1] == 0


@pytest.mark.long
def test_off_keeps_no_prompts_and_deletes_those_there(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": LLAMA})
        ask(daemon, LLAMA)
        daemon.stop()
    assert stored(home)
    mine = home.prompts / "mine.txt"
    mine.write_text("not ours")
    with Daemon(home, "--prompt-cache-size", "off") as daemon:
        assert not stored(home)
        assert metric(daemon, "reconciler_prompt_cache_bytes") == 0
        daemon.ready(LLAMA)
        assert ask(daemon, LLAMA)[1] == 0
        daemon.stop()
        assert not stored(home)
    assert mine.exists()


@pytest.mark.long
def test_an_unusable_directory_harms_no_request(home: Home) -> None:
    home.prompts.mkdir()
    home.prompts.chmod(0o777)  # others could write to it
    with Daemon(home) as daemon:
        daemon.load({"model": LLAMA})
        answers = [ask(daemon, LLAMA) for _ in range(2)]
        assert answers[0][0] == answers[1][0]
        assert answers[1][1] > 400  # from memory
        lines = daemon.get(f"/api/v1/logs?name={LLAMA}")["lines"]
        assert str(lines).count("prompts cannot be written to disk") == 1
        assert daemon.stop() == 0
    assert list(home.prompts.iterdir()) == []


@pytest.mark.long
def test_daemons_share_a_directory_within_its_limit(home: Home, tmp_path: Path) -> None:
    second = Home(tmp_path / "second", home.models)
    second.prompts = home.prompts
    limit = ("--prompt-cache-size", "800kB")
    with Daemon(home, *limit) as one, Daemon(second, *limit) as two:
        for daemon in (one, two):
            daemon.load({"model": LLAMA})
        for number in range(6):
            for daemon in (one, two):
                ask(daemon, LLAMA, f"{number}. " + "What is wanted? " * 40)
                assert sum(file.stat().st_size for file in stored(home)) <= 800_000
        one.stop()
        two.stop()
        assert sum(file.stat().st_size for file in stored(home)) <= 800_000
        for daemon in (one, two):
            daemon.start()
            daemon.ready(LLAMA)
            assert ask(daemon, LLAMA)[1] > 0


@pytest.mark.long
def test_a_lock_that_is_never_released_delays_an_unload_only_briefly(home: Home) -> None:
    with Daemon(home) as daemon:
        for key in ("own/one", "own/two"):
            copied(daemon, key)
            daemon.load({"model": key})
        with (home.prompts / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ask(daemon, "own/one")
            assert daemon.unload("own/one")[0] == 200
            assert ask(daemon, "own/two")[0]
            assert daemon.stop() == 0

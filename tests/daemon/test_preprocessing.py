"""Preprocessing processes, which prepare prompts, end with their workers however those end."""

import psutil

from tests.support import Daemon, Home, eventually

CHAT = "/v1/chat/completions"
MODEL = "tiny/llama"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def preprocessing(worker: psutil.Process) -> psutil.Process:
    """Preprocessing process of a worker for short requests."""
    (child,) = worker.children()
    return child


def ended(process: psutil.Process) -> bool:
    """True if it no longer runs, even if it has not been reaped."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ends_with(daemon: Daemon, whom: str) -> None:
    """Kill a worker or its daemon while the worker's preprocessing cannot react."""
    assert daemon.request("POST", CHAT, ASK)[0] == 200
    (worker,) = daemon.workers()
    child = preprocessing(worker)
    child.suspend()  # like one that is busy with an endless regular expression
    if whom == "worker":
        worker.kill()
    else:
        daemon.kill()
    try:
        eventually(lambda: ended(worker) and ended(child), daemon.log)
    finally:
        if child.is_running():
            child.kill()


def test_a_preprocessing_process_that_cannot_react_ends_with_its_worker(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": MODEL})
        ends_with(daemon, "worker")
        daemon.eventually(MODEL, lambda record: record["status"]["restarts"] == 1)
        daemon.ready(MODEL)
        ends_with(daemon, "daemon")

"""The processes that make prompts of requests: they end with their workers, however those end."""

import psutil

from tests.support import Daemon, Home, eventually

CHAT = "/v1/chat/completions"
MODEL = "tiny/llama"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def preprocessing(worker: psutil.Process) -> psutil.Process:
    """The process of a worker that short requests have."""
    (child,) = worker.children()
    return child


def ended(process: psutil.Process) -> bool:
    """True if it runs no more; who reaps it is not ours to say."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ends_with(daemon: Daemon, whom: str) -> None:
    """Kill a worker, or its daemon, while the worker's preprocessing notices nothing."""
    assert daemon.request("POST", CHAT, ASK)[0] == 200
    (worker,) = daemon.workers()
    child = preprocessing(worker)
    child.suspend()  # as busy as with a regular expression that never ends
    if whom == "worker":
        worker.kill()
    else:
        daemon.kill()
    try:
        eventually(lambda: ended(worker) and ended(child), daemon.log)
    finally:
        if child.is_running():
            child.kill()


def test_one_that_notices_nothing_ends_with_its_worker(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": MODEL})
        ends_with(daemon, "worker")
        daemon.eventually(MODEL, lambda record: record["status"]["restarts"] == 1)
        daemon.ready(MODEL)
        ends_with(daemon, "daemon")

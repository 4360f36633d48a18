"""A storm: changes by HTTP, file and commit, while the daemon is killed with SIGKILL at any moment.

The changes and the time of each kill are drawn from a seed, which a failure reports. After a kill,
acknowledged changes must be in effect; others may be applied or not, but not in part.
"""

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from tests.hub import Hub
from tests.repositories import Origin
from tests.support import MANIFEST, WORKER_ENDS, Daemon, Home, conditions, eventually

MODELS = (*["tiny/llama"] * 4, "tiny/qwen3_moe")
"""Models to draw from; most share their weights, so that a restart is quick."""

NAMES = ("http-0", "http-1", "http-2")
FILES = ("file-0", "file-1")
COMMITTED = "git-0"
ANCHOR = "anchor"
ENDLESS = "maker/endless"
"""A model whose download hangs."""

LONGEST = 1.2
"""Most seconds to a kill, from the first change or from the daemon's start."""

SHORT = 0.015
"""Most seconds to a kill from the beginning of a change or of a daemon's action: attaching takes
about as long. Two of three kills use it; otherwise most would come while the daemon is idle."""

MARK = "PYTHON_STORM_OF_RECONCILER"
"""Environment variable of every process of a storm, with the PID of the process that runs it."""

Spec = tuple[str, int]
"""Model and context length."""


class Storm:
    """The changes made and the states that they allow."""

    def __init__(self, home: Home, root: Path, seed: int, *options: str) -> None:
        """Start a storm; `root` is for the repository that the daemon follows."""
        self.seed = seed
        self.kills = 0
        self.before_ready = 0
        """Number of kills before the daemon reported that it listens."""
        self.cleared = 0
        """Number of records suspected of crashing the machine."""
        self.steps: list[str] = []
        """Steps since the last check."""
        self._random = random.Random(seed)
        self._files: dict[str, Spec] = {}
        self._http: dict[str, set[Spec | None]] = {name: {None} for name in NAMES}
        """Allowed specs by record; None if it may be absent. One value if it is known."""
        self._write(home, ANCHOR, ("tiny/llama", 500))
        self._origin = Origin(root)
        self._committed = self._commit()
        git = ("--git", self._origin.url, "--git-path", "fleet", "--git-interval", "1s")
        self.daemon = Daemon(home, *options, *git)

    # -- changes ---------------------------------------------------------------------------

    def run(self, kills: int) -> None:
        """Run until the daemon was killed `kills` times."""
        try:
            self._check()
            while self.kills < kills:
                self._round()
        except Exception as error:
            story = ", ".join(self.steps)
            error.add_note(f"seed {self.seed}, kill {self.kills}: {story}\n{self.daemon.log()}")
            raise

    def _round(self) -> None:
        """Make some changes, kill the daemon meanwhile, and perhaps again at its next starts."""
        self.steps.clear()
        if self._random.random() < 0.1:
            self._kill_worker()
        steps = [self._drawn() for _ in range(self._random.randint(1, 6))]
        moment = self._random.choice(("time", "change", "action"))
        end = self._random.random() * (LONGEST if moment == "time" else SHORT)
        nth = self._random.randint(1, len(steps))
        begun, log = threading.Semaphore(0), self._log_size()
        with ThreadPoolExecutor(1) as client:
            asking = client.submit(self._ask, steps, begun)
            for _ in range(nth if moment == "change" else 0):
                begun.acquire(timeout=LONGEST)
            if moment == "action":
                self._until_action(log, LONGEST)
            time.sleep(end)  # the time of the kill is random
            self.daemon.kill()
            self.kills += 1
            asking.result()
        for _ in range(self._random.choice((0, 1, 1, 2, 3))):
            self._kill_while_starting()
        self.daemon.start()
        self._check()

    def _kill_while_starting(self) -> None:
        """Kill the daemon before it listens or while it restores its records."""
        in_action = self._random.random() < 0.25
        end = self._random.random() * (SHORT if in_action else LONGEST)
        self.steps.append(f"killed {end:.3f} s after {'an action' if in_action else 'its start'}")
        log = self._log_size()
        self.daemon.launch()
        if in_action:
            self._until_action(log, 3 * LONGEST)
        time.sleep(end)
        self.daemon.process.kill()
        assert self.daemon.process.stdout is not None
        self.before_ready += not self.daemon.process.stdout.read()
        self.daemon.kill()
        self.kills += 1

    def _log_size(self) -> int:
        return (self.daemon.home.root / "log").stat().st_size

    def _until_action(self, begin: int, seconds: float) -> None:
        """Return when the log shows a new action after position `begin`, or after `seconds`."""
        deadline, text = time.monotonic() + seconds, ""
        with (self.daemon.home.root / "log").open(encoding="utf-8") as log:
            log.seek(begin)
            while "action started" not in text and time.monotonic() < deadline:
                time.sleep(0.001)
                text += log.read()

    def _kill_worker(self) -> None:
        for worker in self.daemon.workers()[:1]:
            self.steps.append("a worker is killed")
            worker.kill()

    def _drawn(self) -> Callable[[], None]:
        """A random change, to be called in the client's thread."""
        wanted = (self._random.choice(MODELS), self._random.randint(500, 4000))
        roll = self._random.random()
        if roll < 0.4:
            return partial(self._load, self._random.choice(NAMES), wanted)
        if roll < 0.55:
            return partial(self._unload, self._random.choice(NAMES))
        if roll < 0.65:
            return partial(self._unload_while_it_answers, self._random.choice(NAMES))
        if roll < 0.85:
            return partial(self._write, self.daemon.home, self._random.choice(FILES), wanted)
        if roll < 0.88:
            return partial(self._delete, self._random.choice(FILES))
        if roll < 0.95:
            return self._push
        return self._download

    def _ask(self, steps: list[Callable[[], None]], begun: threading.Semaphore) -> None:
        """Make the changes one by one until one gets no response."""
        for step in steps:
            begun.release()
            try:
                step()
            except (OSError, HTTPException) as error:
                self.steps.append(f"not answered: {type(error).__name__}")
                return

    def _load(self, name: str, wanted: Spec) -> None:
        self.steps.append(f"load {name} {wanted}")
        before = self._http[name]
        self._http[name] = before | {wanted}
        body = {"model": wanted[0], "instance_id": name, "config": {"context_length": wanted[1]}}
        status, answer = self.daemon.request("POST", "/api/v1/models/load", body)
        if status == 200:
            self._http[name] = {wanted}
        else:  # a worker was killed meanwhile
            assert answer["error"]["code"] in WORKER_ENDS, answer
            self._http[name] = before

    def _unload(self, name: str) -> None:
        self.steps.append(f"unload {name}")
        before = self._http[name]
        self._http[name] = before | {None}
        status, answer = self.daemon.unload(name)
        assert status == (404 if before == {None} else 200), answer
        self._http[name] = {None}

    def _unload_while_it_answers(self, name: str) -> None:
        """Unload an instance with a running request, so that a kill hits its draining."""
        if self._http[name] == {None}:
            return
        self.steps.append(f"ask {name} for much")
        asked = {"model": name, "prompt": [7], "temperature": 0, "stream": True}
        try:
            with self.daemon.stream("/v1/completions", asked) as reply:
                reply.readline()
                self._unload(name)
        except HTTPError as error:  # its worker was killed
            with error:
                self.steps.append(f"refused with {error.code}")

    def _write(self, home: Home, name: str, wanted: Spec) -> None:
        """Write a manifest in two halves, the first of which is invalid."""
        self.steps.append(f"write {name} {wanted}")
        self._files[name] = wanted
        config = f"{{context_length: {wanted[1]}}}"
        text = MANIFEST.format(name=name, model=wanted[0], config=config)
        with (home.manifests / f"{name}.yaml").open("w", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            file.write(text[len(text) // 2 :])

    def _delete(self, name: str) -> None:
        self.steps.append(f"delete {name}")
        if self._files.pop(name, None) is not None:
            (self.daemon.home.manifests / f"{name}.yaml").unlink()

    def _commit(self) -> Spec:
        wanted = ("tiny/llama", self._random.randint(500, 4000))
        self._origin.declare(COMMITTED, model=wanted[0], context=wanted[1])
        return wanted

    def _push(self) -> None:
        self.steps.append("commit")
        self._committed = self._commit()

    def _download(self) -> None:
        """Start a download that hangs."""
        self.steps.append("download")
        self.daemon.request("POST", "/api/v1/models/download", {"model": ENDLESS})

    # -- invariants ------------------------------------------------------------------------

    def _check(self) -> None:
        """Check that exactly the acknowledged changes are in effect and nothing is left behind."""
        for name, allowed in self._http.items():
            found = self._found(name)
            assert found in allowed, (name, found, allowed)
            self._http[name] = {found}
        for name, wanted in self._expected().items():
            eventually(partial(self._meets, name, wanted), partial(str, f"{name} is not as asked"))
        names = {r["name"] for r in self.daemon.get("/api/v1/records")["records"]}
        for name in names - self._expected().keys():
            self.daemon.gone(name)
        # The daemon may not have noticed a worker's death yet when its record was read.
        eventually(lambda: self.daemon.loaded() == self._expected().keys(), self.daemon.log)
        distinct = {model for model, _ in self._expected().values()}
        assert len(self.daemon.workers()) <= len(distinct) + 1  # plus the spare
        eventually(lambda: not strays(self.daemon), lambda: f"left over: {strays(self.daemon)}")
        eventually(lambda: not stale_sockets(self.daemon), lambda: f"{stale_sockets(self.daemon)}")
        assert "Traceback" not in self.daemon.log()

    def _expected(self) -> dict[str, Spec]:
        http = {name: wanted for name, (wanted,) in self._http.items() if wanted is not None}
        return self._files | http | {COMMITTED: self._committed}

    def _found(self, name: str) -> Spec | None:
        status, record = self.daemon.request("GET", f"/api/v1/records/{name}")
        if status == 404:
            return None
        assert status == 200, record
        return record["spec"]["model"], record["spec"]["config"]["context_length"]

    def _meets(self, name: str, wanted: Spec) -> bool:
        status, record = self.daemon.request("GET", f"/api/v1/records/{name}")
        if status == 404:  # its source has not been read yet
            return False
        if any(c["reason"] == "SuspectedHostCrash" for c in record["status"]["conditions"]):
            status, answer = self.daemon.request("POST", f"/api/v1/records/{name}/clear")
            assert status == 200, answer
            self.cleared += 1
            return False
        expected = {"model": wanted[0], "config": {"context_length": wanted[1]}}
        if record["spec"] != expected or conditions(record)["Ready"] != "True":
            return False
        assert record["status"]["config"]["context_length"] == wanted[1]
        return True

    def cut_short(self) -> Counter[str]:
        """Number of actions interrupted by kills, by kind."""
        lines = [
            line for line in self.daemon.log().splitlines() if "an action was interrupted" in line
        ]
        words = (word for line in lines for word in line.split())
        return Counter(word[7:] for word in words if word.startswith("action="))


@contextmanager
def storm(home: Home, root: Path, model: Path, seed: int, *options: str) -> Iterator[Storm]:
    """Run a storm on a fresh daemon, stop it, and check that nothing is left of it.

    `model` has files for a hub that never completes a download. `options` are the daemon's.
    """
    with Hub() as hub:
        hub.stop_after = 1000
        hub.add(ENDLESS, model)
        os.environ |= {MARK: str(os.getpid()), "HF_ENDPOINT": hub.url}
        try:
            storm = Storm(home, root, seed, *options)
            with storm.daemon:
                yield storm
                sockets = {socket.parent for socket in worker_sockets(storm.daemon)}
        finally:
            del os.environ[MARK], os.environ["HF_ENDPOINT"]
    assert marked() == []
    assert [path for path in sockets if path.exists()] == []
    with sqlite3.connect(home.state / "reconciler.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT * FROM attempts WHERE ended_at IS NULL").fetchall() == []
    db.close()


def marked() -> list[psutil.Process]:
    """The daemons of this storm and all processes that they started."""
    own = os.getpid()
    found = psutil.process_iter(["environ", "cmdline"])
    mine = [p for p in found if (p.info["environ"] or {}).get(MARK) == str(own)]
    return [p for p in mine if p.info["cmdline"] and p.pid != own]


def strays(daemon: Daemon) -> list[Any]:
    """Command lines of processes left by former daemons."""
    own = psutil.Process(daemon.process.pid)
    family = {own.pid, *(child.pid for child in own.children(recursive=True))}
    return [p.info["cmdline"] for p in marked() if p.pid not in family and p.is_running()]


def worker_sockets(daemon: Daemon) -> list[Path]:
    """Sockets of the running workers."""
    found = []
    for worker in daemon.workers():
        with suppress(psutil.NoSuchProcess):  # it has just exited
            found += [Path(word) for word in worker.cmdline()[-1:]]  # empty for an exited process
    return found


def stale_sockets(daemon: Daemon) -> list[Path]:
    """Sockets without a worker in the directories of the workers' sockets."""
    living = worker_sockets(daemon)
    there = {path for socket in living for path in socket.parent.iterdir()}
    return sorted(there - set(living))

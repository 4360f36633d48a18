"""`python -m tests.soak --minutes 10`: find leaks of a daemon under changes, faults and chats.

Every few seconds all instances but one are unloaded, and the daemon is measured in that idle state.
Growth beyond a bound between the beginning and the end is a leak: exit code 1.
"""

import contextlib
import itertools
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import click
import psutil

from tests.hub import Hub
from tests.storm import MARK, marked, stale_sockets, strays, worker_sockets
from tests.support import WORKER_ENDS, Daemon, Home, eventually

MODELS = {"tiny/llama": "llama", "tiny/qwen3_moe": "qwen3_moe"}
ANCHOR = "anchor"
ROUND_SECONDS = 6.0
"""Duration of changes and faults between two measurements."""

CLIENTS = 3
WARM_UP = 0.2
"""Share of the measurements taken before caches and buffers are full."""

MB, KB = 10**6, 10**3


@dataclass(frozen=True)
class Sample:
    """Measurements of the idle daemon."""

    memory: int
    descriptors: int
    threads: int
    tasks: int
    counted: int
    """Number of instance names in the metrics."""
    workers: int
    orphans: int
    sockets: int
    """Number of sockets without a worker."""
    disk: int
    """Bytes of the state directory."""


@dataclass(frozen=True)
class Bound:
    """Allowed growth from beginning to end, or with `ever` the allowed maximum."""

    words: str
    more: int
    unit: int = 1
    ever: bool = False


BOUNDS = {
    # The last 5,000 events, 200 logs and 100 downloads are kept.
    "memory": Bound("memory of the daemon, MB", 12 * MB, MB),
    # Connections to the worker of the anchor are kept open for 15 s.
    "descriptors": Bound("file descriptors", 3),
    # Python starts threads for blocking calls on demand, up to a few.
    "threads": Bound("threads", 3),
    "tasks": Bound("tasks", 0),
    # The anchor, and instances whose request ended since the last pass.
    "counted": Bound("instances in the metrics, at most", 3, ever=True),
    # The worker of the anchor, and the spare.
    "workers": Bound("workers, at most", 2, ever=True),
    "orphans": Bound("processes without a parent, at most", 0, ever=True),
    "sockets": Bound("sockets without a worker, at most", 0, ever=True),
    # The history keeps 10,000 generations, and SQLite a log of 4 MB.
    "disk": Bound("state directory, kB", 8 * MB, KB),
}


class Soak:
    """Runs random operations on a daemon and measures it."""

    def __init__(self, home: Home, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._random = random.Random(seed)
        self._serial = itertools.count(1)
        self._home = home
        home.write("anchor.yaml", name=ANCHOR, model="tiny/llama", context_length=2000)
        self.daemon = Daemon(home, "--spare-workers", "1", "--jit")

    def run(self, minutes: float) -> None:
        """Alternate rounds and measurements for `minutes`."""
        end = time.monotonic() + 60 * minutes
        try:
            self._measure()
            while time.monotonic() < end:
                self._round()
                self._measure()
                _progress(self.samples[-1], len(self.samples), self.counts)
        except Exception as error:
            error.add_note(self.daemon.log()[-5000:])
            raise

    # -- operations ------------------------------------------------------------------------

    def _round(self) -> None:
        """Run clients that chat and load, along with faults and changes of files."""
        end = time.monotonic() + ROUND_SECONDS
        with ThreadPoolExecutor(CLIENTS) as pool:
            seeds = [self._random.random() for _ in range(CLIENTS)]
            clients = [pool.submit(self._client, end, random.Random(s)) for s in seeds]
            while time.monotonic() < end:
                action = self._random.choice(
                    [
                        *(self._write, self._write, self._spoil, self._fix, self._delete),
                        *(self._kill_worker, self._stop_worker, self._fail_download, self._vanish),
                    ]
                )
                self.counts[action.__name__.strip("_").replace("_", " ")] += 1
                action()
                time.sleep(self._random.random() / 3)
            for client in clients:
                client.result()

    def _client(self, end: float, chance: random.Random) -> None:
        """Load under new names, chat, disconnect, unload."""
        while time.monotonic() < end:
            name = f"http-{next(self._serial)}"
            body = {"model": chance.choice(list(MODELS)), "instance_id": name}
            self._request("load", "POST", "/api/v1/models/load", body)
            for _ in range(chance.randint(1, 4)):
                model = chance.choice([name, name, ANCHOR, "tiny/qwen3_moe", "no/such"])
                chat = {"model": model, "max_tokens": chance.randint(1, 64)}
                chat["messages"] = [{"role": "user", "content": f"What is {chance.random()}?"}]
                if chance.random() < 0.4:
                    self._request("chat", "POST", "/v1/chat/completions", chat)
                else:
                    leaves = chance.random() < 0.3
                    self._stream(chat | {"stream": True, "max_tokens": 500}, leaves=leaves)
            self._request("unload", "POST", "/api/v1/models/unload", {"instance_id": name})

    def _request(self, what: str, method: str, path: str, body: object) -> None:
        status, answer = self.daemon.request(method, path, body)
        self.counts[f"{what} {status}"] += 1
        # Errors caused by the faults: a killed worker, or a model that never existed.
        code = answer.get("error", {}).get("code")
        excused = {*WORKER_ENDS, "model_not_loaded", "model_not_found", "model_unloaded"}
        assert status == 200 or code in excused, (what, status, answer)

    def _stream(self, body: object, *, leaves: bool) -> None:
        try:
            with self.daemon.stream("/v1/chat/completions", body) as reply:
                reply.readline()
                self.counts["stream left" if leaves else "stream"] += 1
                if not leaves:
                    reply.read()
        except urllib.error.HTTPError as error:
            with error:
                self.counts[f"stream {error.code}"] += 1

    def _write(self) -> None:
        name = f"file-{self._random.randrange(4)}"
        model, context = self._random.choice(list(MODELS)), self._random.randint(500, 2000)
        self._home.write(f"{name}.yaml", name=name, model=model, context_length=context)

    def _spoil(self) -> None:
        (self._home.manifests / f"bad-{self._random.randrange(3)}.yaml").write_text("a: [", "utf-8")

    def _fix(self) -> None:
        for path in self._home.manifests.glob("bad-*"):
            path.unlink()

    def _delete(self) -> None:
        for path in list(self._home.manifests.glob("file-*"))[:1]:
            path.unlink()

    def _kill_worker(self) -> None:
        for worker in self._some_worker():
            worker.kill()

    def _stop_worker(self) -> None:
        for worker in self._some_worker():
            worker.suspend()
            time.sleep(self._random.random() / 2)
            worker.resume()

    def _some_worker(self) -> list[psutil.Process]:
        workers = self.daemon.workers()
        return self._random.sample(workers, 1) if workers else []

    def _fail_download(self) -> None:
        body = {"model": f"maker/none-{next(self._serial)}"}
        self._request("download", "POST", "/api/v1/models/download", body)

    def _vanish(self) -> None:
        """Follow the events, then disconnect."""
        with urllib.request.urlopen(f"{self.daemon.url}/api/v1/events", timeout=90) as reply:
            reply.readline()

    # -- measurements ----------------------------------------------------------------------

    def _measure(self) -> None:
        """Unload all but the anchor, then measure."""
        for path in [*self._home.manifests.glob("file-*"), *self._home.manifests.glob("bad-*")]:
            path.unlink()
        for record in self.daemon.get("/api/v1/records")["records"]:
            if record["owner"] == "http":
                self.daemon.unload(record["name"])
        eventually(self._quiet, lambda: f"it did not become quiet:\n{self.daemon.log()[-3000:]}")
        own = psutil.Process(self.daemon.process.pid)
        state = [p for p in self._home.state.rglob("*") if p.is_file()]
        metrics = self._metrics()
        self.samples.append(
            Sample(
                own.memory_info().rss,
                own.num_fds(),
                own.num_threads(),
                int(float(metrics["reconciler_tasks"])),
                len(set(re.findall(r'instance="(.*?)"', " ".join(metrics)))),
                len(self.daemon.workers()),
                len(strays(self.daemon)),
                len(stale_sockets(self.daemon)),
                sum(path.stat().st_size for path in state),
            )
        )

    def _quiet(self) -> bool:
        """True if only the anchor is loaded and no work is in progress."""
        names = {record["name"] for record in self.daemon.get("/api/v1/records")["records"]}
        workers = self.daemon.workers()
        listening = all(socket.exists() for socket in worker_sockets(self.daemon))
        return names == self.daemon.loaded() == {ANCHOR} and len(workers) <= 2 and listening

    def _metrics(self) -> dict[str, str]:
        with urllib.request.urlopen(f"{self.daemon.url}/metrics", timeout=90) as reply:
            lines = reply.read().decode().splitlines()
        lines = [line for line in lines if not line.startswith("#")]
        return {key: value for key, _, value in (line.rpartition(" ") for line in lines)}


def _progress(sample: Sample, number: int, counts: Counter[str]) -> None:
    text = ", ".join(f"{field.name} {getattr(sample, field.name):,}" for field in fields(sample))
    click.echo(f"{number}: {text}; {sum(counts.values())} things done", err=True)


@dataclass(frozen=True)
class Row:
    """A row of the table: medians of the first and the last third after the warm-up."""

    words: str
    begin: float
    end: float
    allowed: int
    fine: bool


def judge(samples: list[Sample]) -> list[Row]:
    """Compare the measurements with BOUNDS."""
    settled = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(settled) // 3)
    return [_judged(field.name, settled, third) for field in fields(Sample)]


def _judged(name: str, settled: list[Sample], third: int) -> Row:
    bound, values = BOUNDS[name], [getattr(sample, name) for sample in settled]
    begin, end = statistics.median(values[:third]), statistics.median(values[-third:])
    if bound.ever:
        begin, end = min(values), max(values)
    fine = end <= (bound.more if bound.ever else begin + bound.more)
    return Row(bound.words, begin / bound.unit, end / bound.unit, bound.more // bound.unit, fine)


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="How long.")
@click.option("--seed", default=1, show_default=True, help="Of what is done.")
def main(minutes: float, seed: int) -> None:
    """Run a daemon under changes, faults and chats, and report what it leaks."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pairs = [w for key, kind in MODELS.items() for w in (kind, str(root / "models" / key))]
        subprocess.run(
            [sys.executable, "-m", "tests.tiny", *pairs], check=True, cwd=Path(__file__).parents[1]
        )
        hub = stack.enter_context(Hub())
        os.environ |= {MARK: str(os.getpid()), "HF_ENDPOINT": hub.url}
        soak = Soak(Home(root, root / "models"), seed)
        with soak.daemon:
            soak.run(minutes)
            log = soak.daemon.log()
        left = [process.cmdline() for process in marked()]
    rows = judge(soak.samples)
    click.echo(f"{minutes:g} min, seed {seed}, {len(soak.samples)} measurements; done:")
    click.echo("  " + ", ".join(f"{what}: {n:,}" for what, n in sorted(soak.counts.items())))
    click.echo(f"{'':36}{'begin':>10}{'end':>10}{'allowed':>10}")
    for row in rows:
        allowed = f"{row.allowed:,}" if row.words.endswith("at most") else f"+{row.allowed:,}"
        numbers = f"{row.begin:10,.1f}{row.end:10,.1f}{allowed:>10}"
        click.echo(f"{row.words:36}{numbers}{'' if row.fine else '  LEAK'}")
    click.echo(f"left after the stop: {left or 'nothing'}")
    _, traceback, story = log.partition("Traceback")
    if traceback:
        click.echo(f"the daemon's log has tracebacks:\n{traceback}{story[:3000]}")
    if left or traceback or not all(row.fine for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

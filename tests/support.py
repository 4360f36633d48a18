"""Drives a real daemon: its process, files and HTTP."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from jsonschema import Draft202012Validator

from reconciler.api import openapi
from reconciler.api.ollama.names import OLLAMA_ERROR
from reconciler.core.dialects import error_form, ollama_error
from reconciler.core.schema import check

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: {name}
spec:
  model: {model}
  config: {config}
"""

WORKER_ENDS = {"worker_died", "worker_killed", "worker_hung", "generation_died"}
"""Error codes for the end of a worker."""

PATIENCE = 600
"""Seconds that a response may take; a test that waits too long ends by its own timeout."""


class Home:
    """The directories of one daemon."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        self.models = models
        self.manifests = root / "manifests"
        self.hub_cache = root / "hub"
        self.lm_studio = root / "lmstudio"
        self.state = root / "state"
        self.prompts = root / "prompts"
        self.manifests.mkdir(parents=True)
        # A directory that becomes empty counts as empty only after 30 seconds.
        (self.manifests / "README").touch()

    def arguments(self) -> list[str]:
        """Options that name the directories."""
        return [
            *("--manifests", str(self.manifests)),
            *("--models", str(self.models)),
            *("--hub-cache", str(self.hub_cache)),
            *("--lm-studio", str(self.lm_studio)),
            *("--state", str(self.state)),
            *("--prompt-cache", str(self.prompts)),
        ]

    def write(self, file: str, *, name: str, model: str, **config: object) -> Path:
        """Write a manifest."""
        path = self.manifests / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MANIFEST.format(name=name, model=model, config=json.dumps(config)), "utf-8")
        return path


def environment(**more: str) -> dict[str, str]:
    """Environment without the user's settings."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
    return clean | more


class Daemon:
    """`reconciler serve` on a free port."""

    command: tuple[str, ...] = (sys.executable, "-m", "reconciler", "serve")

    def __init__(self, home: Home, *options: str, environ: dict[str, str] | None = None) -> None:
        """Start it; with `environ`, these variables replace all options."""
        self.home = home
        self._environ = environ or {}
        # A spare worker costs a second of CPU time, and most tests end before it is ready.
        common = ("--port", "0", "--spare-workers", "0", *home.arguments())
        self._options = () if environ else (*common, *options)
        self.start()

    def start(self) -> None:
        """Start it and wait for its ready line."""
        self.launch()
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert self.ready_line, self.log()
        self.url = self.ready_line.split()[-1]

    def launch(self) -> None:
        """Start it without waiting."""
        self._log = (self.home.root / "log").open("ab")
        self.process = subprocess.Popen(
            [*self.command, *self._options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(**self._environ),
        )

    def log(self) -> str:
        """Its log so far."""
        return (self.home.root / "log").read_text("utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; returns the exit status."""
        self.process.send_signal(number)
        return self._reap()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self._reap()

    def _reap(self) -> int:
        status = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.stop()  # the second signal skips the drain
        elif not self._log.closed:
            self._reap()

    def workers(self) -> list[psutil.Process]:
        """Its worker processes, the spare included."""
        children = psutil.Process(self.process.pid).children()
        return [p for p in children if _is_worker(p)]

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send a request; returns status and parsed body. A body in bytes is sent unchanged."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers=headers or {}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                status, answer = reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                status, answer = error.code, json.load(error)
        check_answer(method, path, status, answer)
        return status, answer

    def stream(self, path: str, body: Any) -> http.client.HTTPResponse:
        """Send a request; the caller reads the response as it arrives."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        reply: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=PATIENCE)
        return reply

    def events(self, query: str = "follow=false") -> list[Any]:
        """Data of the kept events; `lost` stands for discarded ones."""
        with urllib.request.urlopen(f"{self.url}/api/v1/events?{query}", timeout=PATIENCE) as reply:
            return list(parse_events(reply))

    def get(self, path: str) -> Any:
        """Body of a GET that must succeed."""
        status, body = self.request("GET", path)
        assert status == 200, body
        return body

    def load(self, body: Any) -> Any:
        """Response of a load that must succeed."""
        status, answer = self.request("POST", "/api/v1/models/load", body)
        assert status == 200, answer
        return answer

    def unload(self, name: str) -> tuple[int, Any]:
        """Unload an instance."""
        return self.request("POST", "/api/v1/models/unload", {"instance_id": name})

    def ready(self, name: str, generation: int = 1) -> Any:
        """Wait until that generation or a later one is ready; returns the record."""
        query = f"wait=ready&generation={generation}&timeout=60"
        record = self.get(f"/api/v1/records/{urllib.parse.quote(name)}?{query}")
        assert conditions(record)["Ready"] == "True", (record, self.log())
        assert record["status"]["observed_generation"] >= generation
        return record

    def gone(self, name: str) -> None:
        """Wait until no record and no instance has that name."""
        path = f"/api/v1/records/{urllib.parse.quote(name)}?wait=gone&timeout=60"
        status, body = self.request("GET", path)
        assert status == 404, body

    def eventually(self, name: str, condition: Callable[[Any], bool]) -> Any:
        """Poll until `condition` holds for the record; returns the record."""
        record: Any = None

        def holds() -> bool:
            nonlocal record
            record = self.get(f"/api/v1/records/{name}")
            return condition(record)

        eventually(holds, lambda: f"{record}\n{self.log()}")
        return record

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll until `condition` holds."""
        eventually(condition, self.log)

    def loaded(self) -> set[str]:
        """Names of the loaded instances."""
        models = self.get("/api/v1/models")["models"]
        return {i["id"] for m in models for i in m["loaded_instances"]}


def copied(daemon: Daemon, key: str, model: str = "tiny/llama") -> Path:
    """Copy a checkpoint to the daemon's models as `key`, so that no worker has its weights."""
    path = daemon.home.lm_studio / "models" / key
    shutil.copytree(daemon.home.models / model, path)
    return path


def tidy(daemon: Daemon, staying: Collection[str]) -> None:
    """Remove all manifests and records of a daemon, except records named as a model of `staying`.

    Those get the settings of a load without options.
    """
    home = daemon.home
    for file in home.manifests.iterdir():
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        elif file.name != "README":
            file.unlink()
    daemon.until(lambda: _is_undeclared(daemon))
    for record in daemon.get("/api/v1/records")["records"]:
        name, plain = record["name"], {"model": record["name"]}
        path = f"/api/v1/records/{urllib.parse.quote(name)}"
        if name not in staying:
            status, answer = daemon.request("DELETE", path)
        elif record["spec"] != plain | {"config": {}}:
            status, answer = daemon.request("PUT", f"{path}?wait=ready", {"spec": plain})
        else:
            continue
        assert status == 200, answer
    shutil.rmtree(home.lm_studio, ignore_errors=True)


def _is_undeclared(daemon: Daemon) -> bool:
    """True if no manifest owns a record; confirms pending removals."""
    (source,) = daemon.get("/api/v1/sources")["sources"]
    if source["unconfirmed"]:
        path = f"/api/v1/sources/{urllib.parse.quote(source['name'], safe='')}/confirm"
        status, answer = daemon.request("POST", path)
        assert status == 200, answer
    return all(r["owner"] == "http" for r in daemon.get("/api/v1/records")["records"])


@cache
def described() -> tuple[Any, list[tuple[re.Pattern[str], Any]]]:
    """The OpenAPI document of this code, and its paths as patterns, the most specific first."""
    from reconciler.api.app import build

    app = build(None, "127.0.0.1", None)  # type: ignore[arg-type]
    document = json.loads(json.dumps(openapi.document(app.router)))
    paths = sorted(document["paths"].items(), key=lambda pair: ("{" in pair[0], -len(pair[0])))
    return document, [
        (re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path))), operations)
        for path, operations in paths
    ]


def check_answer(method: str, path: str, status: int, answer: Any) -> None:
    """Validate a response against its description."""
    plain = path.partition("?")[0]
    route = next((p.pattern for p, _ in described()[1] if p.fullmatch(plain)), "")
    ollama = error_form(plain) is ollama_error
    errors = answers_of(route, method.lower(), status, ollama=ollama).iter_errors(answer)
    assert [e.message for e in errors] == [], answer


@cache
def answers_of(route: str, method: str, status: int, *, ollama: bool) -> Draft202012Validator:
    """Validator for a response; for that of an error if the response has no description."""
    document, paths = described()
    operations: Any = next((o for pattern, o in paths if pattern.pattern == route), {})
    schema = document["components"]["schemas"]["error"]
    if ollama:
        schema = OLLAMA_ERROR
    responses = operations.get(method, {"responses": {}})["responses"]
    if (described_as := responses.get(str(status), responses.get("default"))) is not None:
        schema = described_as["content"]["application/json"]["schema"]
    return Draft202012Validator(schema | {"components": document["components"]})


def parse_stream(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Type and data of server-sent events."""
    kind = ""
    for line in lines:
        field, _, value = line.decode().strip().partition(": ")
        if field == "event":
            kind = value
        elif field == "data":
            yield kind, json.loads(value)


def parse_events(lines: Iterable[bytes]) -> Iterator[Any]:
    """Events of `/api/v1/events`, each validated against its schema."""
    for kind, data in parse_stream(lines):
        if kind == "lost":
            yield "lost"
        else:
            assert [m.message for m in check("event", data)] == []
            assert data["type"] == kind
            yield data


def eventually(condition: Callable[[], bool], story: Callable[[], str]) -> None:
    """Wait until `condition` holds; if it never does, fail with `story`."""
    deadline = time.monotonic() + 60
    pause = 0.02
    while not condition():
        assert time.monotonic() < deadline, story()
        time.sleep(pause)
        pause = min(1.2 * pause, 0.1)  # back off while a condition takes long


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "reconciler.worker" in process.cmdline()
    except psutil.NoSuchProcess:  # also raised for a zombie
        return False


def conditions(record: Any) -> dict[str, str]:
    """Status of each condition of a record."""
    return {c["type"]: c["status"] for c in record["status"]["conditions"]}

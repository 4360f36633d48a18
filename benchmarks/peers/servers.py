"""The measured servers: how each is started with one model, or with two instances of it."""

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import aiohttp

from benchmarks.peers.client import Chat, FailedError
from benchmarks.peers.install import SkippedError, installed, installed_version
from benchmarks.peers.processes import Tree, running

START_SECONDS = 120.0
"""Time from the start of a process to its first answer."""

POLL_SECONDS = 0.02

HOMES = Path("/tmp").resolve()  # noqa: S108
"""A short path, since the sockets of reconciler's workers are below it."""

CONTEXTS = {"first": 8192, "second": 4096}
"""Context length by name of reconciler's instances."""


@dataclass(frozen=True)
class Place:
    """What a server is started with."""

    home: Path
    models: Path
    model: str
    port: int


@dataclass(frozen=True)
class Server:
    """A running server that has answered a request."""

    url: str
    model: str
    """Name of the model in requests."""
    tree: Tree
    seconds: float
    """From the start of the process to its first answer."""


@dataclass(frozen=True)
class Program:
    """A kind of server."""

    name: str
    version: str
    command: Callable[[Place], Sequence[str | Path]]
    environment: dict[str, str] = field(default_factory=dict)
    manifests: bool = False
    """Whether manifests declare the instances, of which one process has several."""

    @property
    def title(self) -> str:
        """Name with the version."""
        return f"{self.name} {self.version}"

    @contextlib.asynccontextmanager
    async def started(
        self, models: Path, model: str, count: int = 1
    ) -> AsyncIterator[list[Server]]:
        """Start `count` instances of a model and wait for their answers; raises SkippedError."""
        names = list(CONTEXTS)[:count]
        async with contextlib.AsyncExitStack() as stack:

            async def process(*declared: str) -> tuple[str, Tree, float]:
                return await stack.enter_async_context(self._process(models, model, declared))

            if self.manifests:
                one = await process(*names)
                yield [await answering(*one, name) for name in names]
            else:
                yield [await answering(*await process(), str(models / model)) for _ in names]

    @contextlib.asynccontextmanager
    async def _process(
        self, models: Path, model: str, names: Sequence[str]
    ) -> AsyncIterator[tuple[str, Tree, float]]:
        """Address, processes and start time of one process with a home directory of its own."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=HOMES) as directory:
            place = Place(Path(directory), models, model, _free_port())
            for name in names:
                _declare(place, name)
            begin = time.perf_counter()
            command = [str(word) for word in self.command(place)]
            async with running(command, place.home, self.environment) as tree:
                yield f"http://127.0.0.1:{place.port}", tree, begin


def _declare(place: Place, name: str) -> None:
    """Write a manifest."""
    document = {
        "apiVersion": "reconciler/v1",
        "kind": "ModelInstance",
        "metadata": {"name": name},
        # Models with random weights repeat themselves more than text does.
        "spec": {
            "model": place.model,
            "config": {"context_length": CONTEXTS[name]},
            "prompt_lookup": False,
        },
    }
    path = place.home / "manifests" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def answering(url: str, tree: Tree, begin: float, model: str) -> Server:
    """Wait for the first answer of a server; raises SkippedError."""
    last: object = "it does not listen"
    try:
        async with asyncio.timeout(START_SECONDS), Chat(url, model) as chat:
            while not (said := tree.ended()):
                try:
                    await chat.ask("hello", 1)
                except (aiohttp.ClientError, FailedError) as error:
                    last = error
                else:
                    return Server(url, model, tree, time.perf_counter() - begin)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise SkippedError(f"no answer within {START_SECONDS:.0f} s: {last}") from None
    raise SkippedError(said)


def reconciler() -> Program:
    """This project."""

    def command(place: Place) -> list[str | Path]:
        return [
            *(sys.executable, "-P", "-m", "reconciler", "serve", "--port", str(place.port)),
            *("--manifests", place.home / "manifests", "--models", place.models),
            *("--hub-cache", place.home / "hub", "--lm-studio", place.home / "lmstudio"),
            *("--state", place.home / "state"),
        ]

    return Program("reconciler", version("mlx-reconciler"), command, manifests=True)


def mlx_lm_server() -> Program:
    """The server of mlx-lm, from this environment."""

    def command(place: Place) -> list[str | Path]:
        return [
            *(
                sys.executable,
                "-P",
                "-m",
                "mlx_lm",
                "server",
                "--model",
                place.models / place.model,
            ),
            *("--host", "127.0.0.1", "--port", str(place.port)),
        ]

    return Program("mlx_lm.server", version("mlx-lm"), command)


def vllm_mlx(root: Path) -> Program:
    """vllm-mlx with the option that its documentation names for several clients."""
    environment = installed("vllm-mlx", root)

    def command(place: Place) -> list[str | Path]:
        return [
            *(environment / "bin/vllm-mlx", "serve", place.models / place.model),
            *("--continuous-batching", "--host", "127.0.0.1", "--port", str(place.port)),
        ]

    return Program("vllm-mlx", installed_version(environment, "vllm-mlx"), command)


def rapid_mlx(root: Path) -> Program:
    """Rapid-MLX with its defaults, without looking for updates or reporting its use."""
    environment = installed("rapid-mlx", root)

    def command(place: Place) -> list[str | Path]:
        return [
            *(environment / "bin/rapid-mlx", "serve", place.models / place.model),
            *("--host", "127.0.0.1", "--port", str(place.port)),
        ]

    quiet = ("TELEMETRY", "0"), ("NO_BANNER", "1"), ("DISABLE_VERSION_CHECK", "1")
    return Program(
        "Rapid-MLX",
        installed_version(environment, "rapid-mlx"),
        command,
        {f"RAPID_MLX_{key}": value for key, value in quiet},
    )

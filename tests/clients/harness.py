"""Real clients for the tests: installed from their registries, run, and listed for the docs.

A module of tests has a `Client` for each client that it runs; `listed` finds them all, and the
table in docs/clients.md is made from them. So what the table says of versions is what the tests
install. A program, in tests/clients/programs, gets the address of the API's root and a model in its
environment, prints one line of JSON, and is run in a home directory of its own.
"""

import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.clients import acting
from tests.support import Daemon

PROGRAMS = Path(__file__).parent / "programs"

CACHE = "RECONCILER_TEST_CLIENTS"
"""A directory to keep installed clients in from run to run; else each run installs them."""

long = [pytest.mark.long, pytest.mark.timeout(1200)]
"""The marks of a module with tests that install clients."""


@dataclass(frozen=True)
class Client:
    """A client as the tests install and run it."""

    name: str
    """As its users call it."""
    registry: Literal["PyPI", "npm"]
    packages: tuple[str, ...]
    """Requirements with exact versions: `openai==2.1.0`, `ai@5.0.1`; the client's own first."""
    runs: str
    """What the tests do with it, for the docs."""

    @property
    def versions(self) -> str:
        """The packages with their versions, for the docs."""
        return ", ".join(f"{name} {version}" for name, version in map(_split, self.packages))


def _split(package: str) -> tuple[str, str]:
    """Name and version of a requirement; extras in brackets are left out."""
    name, _, version = package.replace("==", "@").rpartition("@")
    return name.partition("[")[0], version


def listed() -> list[Client]:
    """Every client that a module of tests has, by name."""
    found: dict[str, Client] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.clients.{path.stem}")
        for value in vars(module).values():
            if isinstance(value, Client):
                assert found.setdefault(value.name, value) == value
    return sorted(found.values(), key=lambda client: client.name.lower())


@dataclass(frozen=True)
class Installed:
    """A client in a directory of its own."""

    client: Client
    directory: Path

    def program(self, file: str, daemon: Daemon, model: str, *arguments: str) -> Any:
        """What a program of `PROGRAMS` prints as its last line, parsed.

        It finds the daemon's address, without a path, and the model's name in URL and MODEL.
        """
        source = self.directory / "programs" / file
        source.parent.mkdir(exist_ok=True)
        shutil.copyfile(PROGRAMS / file, source)  # beside node_modules, where Node looks for them
        python = str(self.directory / "bin" / "python")
        command = [python if file.endswith(".py") else "node", str(source), *arguments]
        done = self.run(command, environ={"URL": daemon.url, "MODEL": model})
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def run(
        self, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the client's to its end, in an empty home directory."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            command,
            env=self.environment() | dict(environ),
            cwd=cwd or home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Nothing of the person who runs the tests; the client's commands are found first."""
        commands = [self.directory / "bin", self.directory / "node_modules" / ".bin"]
        path = os.pathsep.join([*map(str, commands), os.environ.get("PATH", os.defpath)])
        home = str(self.directory / "home")
        return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "NO_COLOR": "1", "TERM": "dumb"}


class Clients:
    """Installs clients, each once a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(os.environ.get(CACHE) or directory)

    def installed(self, client: Client) -> Installed:
        """The client, installed if it is not."""
        name = "+".join(client.packages).replace("/", "_")
        directory = self._directory / client.registry / name[:150]
        directory.parent.mkdir(parents=True, exist_ok=True)
        with directory.with_name(f"{directory.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / "complete").exists():
                shutil.rmtree(directory, ignore_errors=True)
                _install(client, directory)
                (directory / "complete").touch()
        return Installed(client, directory)


def _install(client: Client, directory: Path) -> None:
    if client.registry == "PyPI":
        _done([sys.executable, "-m", "venv", str(directory)])
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _done([*pip, "--disable-pip-version-check", *client.packages])
    else:
        directory.mkdir()
        npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        _done([*npm, "--prefix", str(directory), *client.packages])


def _done(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def acted(
    daemon: Daemon, name: str, rules: Sequence[acting.Rule], otherwise: str = "Nothing to add."
) -> str:
    """Load a model that plays a part; its name in requests, `acting/NAME`. See `acting`."""
    acting.make(Path(daemon.home.models) / "acting" / name, rules, otherwise)
    return str(daemon.load({"model": f"acting/{name}"})["model_instance_id"])

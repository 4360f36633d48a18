"""Real clients for the tests: installed from their registries, run, and listed in the docs.

A test module has a `Client` for each client that it runs. `listed` finds them all, and the table
in docs/clients.md is generated from them, so its versions are those that the tests install.
A program in tests/clients/programs receives the API's root address and a model in its environment,
prints one line of JSON, and runs in its own home directory.
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
"""Directory that keeps installed clients between runs; without it, each run installs them."""

long = [pytest.mark.long, pytest.mark.timeout(1200)]
"""Marks of a module whose tests install clients."""


@dataclass(frozen=True)
class Client:
    """A client that the tests install and run."""

    name: str
    """The name that its users know."""
    registry: Literal["PyPI", "npm"]
    packages: tuple[str, ...]
    """Requirements with exact versions, the client's own first: `openai==2.1.0`, `ai@5.0.1`."""
    runs: str
    """Features that the tests use, for the docs."""

    @property
    def versions(self) -> str:
        """The packages with their versions, for the docs."""
        return ", ".join(f"{name} {version}" for name, version in map(_split, self.packages))


def _split(package: str) -> tuple[str, str]:
    """Name and version of a requirement, without extras in brackets."""
    name, _, version = package.replace("==", "@").rpartition("@")
    return name.partition("[")[0], version


def listed() -> list[Client]:
    """Clients of all test modules, by name."""
    found: dict[str, Client] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.clients.{path.stem}")
        for value in vars(module).values():
            if isinstance(value, Client):
                assert found.setdefault(value.name, value) == value
    return sorted(found.values(), key=lambda client: client.name.lower())


@dataclass(frozen=True)
class Installed:
    """A client in its own directory."""

    client: Client
    directory: Path

    def program(self, file: str, daemon: Daemon, model: str, *arguments: str) -> Any:
        """Run a program of `PROGRAMS`; return its last line of output, parsed.

        The variables URL and MODEL hold the daemon's address, without a path, and the model's name.
        """
        source = self.directory / "programs" / file
        source.parent.mkdir(exist_ok=True)
        shutil.copyfile(PROGRAMS / file, source)  # next to node_modules, where Node looks for them
        python = str(self.directory / "bin" / "python")
        command = [python if file.endswith(".py") else "node", str(source), *arguments]
        done = self.run(command, environ={"URL": daemon.url, "MODEL": model})
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def run(
        self, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the client to completion in an empty home directory."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            command,
            env=self.environment() | dict(environ),
            cwd=cwd or home,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1000,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Environment without the user's variables; the client's commands come first in PATH."""
        commands = [self.directory / "bin", self.directory / "node_modules" / ".bin"]
        path = os.pathsep.join([*map(str, commands), os.environ.get("PATH", os.defpath)])
        home = str(self.directory / "home")
        return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "NO_COLOR": "1", "TERM": "dumb"}


class Clients:
    """Installs each client once per run."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(os.environ.get(CACHE) or directory)

    def installed(self, client: Client) -> Installed:
        """Install the client unless that is done already."""
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
    """Load a model that plays a role; return its name in requests, `acting/NAME`. See `acting`."""
    acting.make(Path(daemon.home.models) / "acting" / name, rules, otherwise)
    return str(daemon.load({"model": f"acting/{name}"})["model_instance_id"])

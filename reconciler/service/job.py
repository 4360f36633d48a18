"""What a service runs, and what the system says of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reconciler.host.durable import write_whole
from reconciler.host.run import Run

KEPT_VARIABLES = ("RECONCILER_", "HF_")
"""Beginnings of the variables that a service takes from whoever installs it."""

SECRET_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Not written into files; huggingface_hub reads the token that `hf auth login` keeps."""


class ServiceError(Exception):
    """The system refused; the message is its own words."""


@dataclass(frozen=True)
class Job:
    """What is run. `user` is set for services of the whole system, which do not run as root."""

    command: tuple[str, ...]
    directory: Path
    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


@dataclass(frozen=True)
class State:
    """What the system says of a service."""

    kind: str
    file: Path
    installed: bool = False
    pid: int | None = None
    last_exit: str | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.pid is not None


class Service(Protocol):
    """A service of either system."""

    @property
    def file(self) -> Path: ...
    def text(self, job: Job) -> str: ...
    def install(self, job: Job) -> bool: ...
    def uninstall(self) -> bool: ...
    def state(self) -> State: ...


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a service keeps."""
    return {
        key: value
        for key, value in sorted(environ.items())
        if key == "PATH" or (key.startswith(KEPT_VARIABLES) and key not in SECRET_VARIABLES)
    }


def write(path: Path, text: str) -> bool:
    """Write a file as a whole or not at all; whether that changed it."""
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8"), 0o644)  # as launchd demands of its files
    return True


@contextmanager
def restored_on_error(path: Path) -> Iterator[None]:
    """If the block fails, put the file back as it was, or remove it if it was not there."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except ServiceError:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, before, 0o644)
        raise


def must(run: Run, *command: str) -> str:
    """Run a program that has to succeed. Raises `ServiceError`."""
    done = run(command)
    if done.code:
        raise ServiceError(f"{' '.join(command)}: {done.text.strip() or f'exit code {done.code}'}")
    return done.text

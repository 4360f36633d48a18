"""The job that a service runs, and its state as reported by the system."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reconciler.host.durable import write_whole
from reconciler.host.run import Run

KEPT_VARIABLES = ("RECONCILER_", "HF_")
"""Prefixes of environment variables that `install` copies into the service."""

SECRET_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Never written to files; huggingface_hub reads the token stored by `hf auth login`."""


class ServiceError(Exception):
    """The system rejected a command; the message is its output."""


@dataclass(frozen=True)
class Job:
    """Command of a service. `user` is set for system-wide services, which do not run as root."""

    command: tuple[str, ...]
    directory: Path
    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


@dataclass(frozen=True)
class State:
    """State of a service as reported by the system."""

    kind: str
    file: Path
    installed: bool = False
    pid: int | None = None
    last_exit: str | None = None

    @property
    def running(self) -> bool:
        """True if its process is running."""
        return self.pid is not None


class Service(Protocol):
    """Service manager of an operating system."""

    @property
    def file(self) -> Path: ...
    def text(self, job: Job) -> str: ...
    def install(self, job: Job) -> bool: ...
    def uninstall(self) -> bool: ...
    def state(self) -> State: ...


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """Select the environment variables of the service."""
    return {
        key: value
        for key, value in sorted(environ.items())
        if key == "PATH" or (key.startswith(KEPT_VARIABLES) and key not in SECRET_VARIABLES)
    }


def write(path: Path, text: str) -> bool:
    """Write a file atomically; True if its content changed."""
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8"), 0o644)  # the mode that launchd requires
    return True


@contextmanager
def restored_on_error(path: Path) -> Iterator[None]:
    """Restore the file if the block fails, or remove it if it did not exist."""
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
    """Run a command that must succeed. Raises `ServiceError`."""
    done = run(command)
    if done.code:
        raise ServiceError(f"{' '.join(command)}: {done.text.strip() or f'exit code {done.code}'}")
    return done.text

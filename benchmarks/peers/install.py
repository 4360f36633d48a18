"""Installs other servers, each into a virtual environment of its own, which later runs use again.

The environments are below `~/.cache/reconciler-benchmarks` (or XDG_CACHE_HOME). Remove that
directory to install the newest versions.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from reconciler.host import children

INSTALL_SECONDS = 900.0
"""Time for one server and its dependencies, which take 6 GB on disk."""

COMPLETE = "complete"
"""File in an environment, written after everything was installed."""


class SkippedError(Exception):
    """A server that cannot be installed, started or measured; the message says why."""


def cache() -> Path:
    """Directory of the environments."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "reconciler-benchmarks"


def installed(package: str, root: Path) -> Path:
    """Environment below `root` with a package and the MLX of this process; raises SkippedError.

    Runs at the same time wait for each other.
    """
    place = root / package
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / COMPLETE).exists():
            shutil.rmtree(place, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(place))
            python = str(place / "bin/python")
            _run(python, "-m", "pip", "install", "--quiet", package, _mlx())
            (place / COMPLETE).touch()
    return place


def installed_version(place: Path, package: str) -> str:
    """Version of a package in an environment; raises SkippedError."""
    for path in place.glob("lib/python*/site-packages"):
        for found in distributions(name=package, path=[str(path)]):
            return found.version
    raise SkippedError(f"{place} has no {package}")


def _mlx() -> str:
    """Requirement for the version of MLX in this process and, on Linux, its backend."""
    for name, extra in (("mlx-cpu", "[cpu]"), ("mlx-cuda-13", "[cuda13]")):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return f"mlx{extra}=={version('mlx')}"
    return f"mlx=={version('mlx')}"


def _run(*command: str) -> None:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        try:
            said = process.communicate(timeout=INSTALL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            raise SkippedError(f"not installed within {INSTALL_SECONDS:.0f} s") from None
        finally:
            children.kill_group(process.pid)
    if process.returncode:
        lines = [line for line in said.splitlines() if "ERROR" in line] or said.splitlines()
        raise SkippedError(f"not installed: {lines[-1] if lines else 'no message'}")

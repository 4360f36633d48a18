"""Fixtures with real checkpoints and a real daemon on real files and sockets."""

import fcntl
import gc
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import structlog

from reconciler.worker import quick_imports

# Set the environment before the imports below and those of the tests.

os.environ.setdefault("MLX_ENABLE_TF32", "0")
"""Disable TF32: with it, MLX on a GPU rounds float32 products, and equal computations differ."""

os.environ.setdefault("SSL_CERT_FILE", os.devnull)
"""Load no certificates: aiohttp parses all at import, 40 ms a process, and no test needs one."""

# Containers often set it. Each daemon and worker would then compile the whole project at its start,
# and pytest all tests at each run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

quick_imports.install()

# Imported objects stay alive: collect no garbage until collection of tests freezes them.
gc.disable()

from reconciler.cli import log  # noqa: E402
from reconciler.demo import DEMO_MODEL  # noqa: E402
from tests.support import Daemon, Home, tidy  # noqa: E402

structlog.configure(processors=log.chain("text", colours=False))
"""The daemon's log format: structlog's default takes seconds to format variables of tracebacks."""

CHECKPOINTS = {
    "openai/gpt-oss-20b": "gpt_oss",
    "tiny/llama": "llama",
    "tiny/llama-4bit": "llama-4bit",
    "tiny/qwen3": "qwen3",
    "tiny/qwen3_moe": "qwen3_moe",
    "tiny/gemma2": "gemma2",
    "tiny/deepseek_v3": "deepseek_v3",
    "tiny/mamba": "mamba",
}
"""Tiny checkpoint by identifier."""

ROOT = Path(__file__).parents[1]

QUESTIONS = "reconciler/questions"
"""The demo's model, which answers simple questions, calls a tool and thinks."""

STAYING = frozenset({"openai/gpt-oss-20b", "tiny/llama", "tiny/qwen3", QUESTIONS})
"""Models that stay loaded in a shared daemon, since many modules use them."""

MARK = "PYTHON_PYTEST_RUN_OF_RECONCILER"
"""Environment variable of every process that a run starts, workers included."""


def pytest_collection_finish() -> None:
    """Exempt all imported objects from garbage collection, and enable it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory with every tiny checkpoint, private to this process: tests change files."""
    directory = tmp_path_factory.mktemp("models")
    shutil.copytree(_checkpoints(tmp_path_factory), directory, dirs_exist_ok=True)
    (directory / QUESTIONS).parent.mkdir()
    (directory / QUESTIONS).symlink_to(DEMO_MODEL)
    return directory


def _checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny checkpoints, made by the first process of a run that needs it."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = run / "checkpoints"
    with (run / "checkpoints.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            made = run / "checkpoints.part"
            pairs = [w for key, name in CHECKPOINTS.items() for w in (name, str(made / key))]
            command = [sys.executable, "-m", "tests.tiny", *pairs]
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            made.rename(directory)
    return directory


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Home:
    """Directories for one daemon."""
    return Home(tmp_path, models)


@pytest.fixture
def daemon(home: Home) -> Iterator[Daemon]:
    """A daemon for one test."""
    with Daemon(home) as running:
        yield running


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon without options that runs until the session ends."""
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as running:
        yield running


@pytest.fixture(scope="module")
def shared(standing: Daemon) -> Iterator[Daemon]:
    """A daemon shared by tests, each of which uses its own names.

    After each module, only records of STAYING remain, named as their model, and no manifests.
    """
    yield standing
    tidy(standing, STAYING)


@pytest.fixture(autouse=True)
def log_kept() -> Iterator[None]:
    """Check that a test leaves the log as it was: others look at what is logged, and where."""
    before = structlog.get_config(), logging.getLogger().handlers[:], logging.raiseExceptions
    yield
    after = structlog.get_config(), logging.getLogger().handlers[:], logging.raiseExceptions
    assert after == before


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Check that no daemon or worker of this run outlives it."""
    os.environ[MARK] = str(os.getpid())
    yield
    marked = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline", "environ"])
        if (p.info["environ"] or {}).get(MARK) == str(os.getpid()) and p.pid != os.getpid()
    ]
    assert marked == []

"""The demo's model in the shared daemon, the official client for it, and a daemon with JIT."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.conftest import QUESTIONS
from tests.support import Daemon, Home, tidy


@pytest.fixture(scope="session")
def standing_jit(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    with Daemon(Home(tmp_path_factory.mktemp("jit"), models), "--jit") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def jit(standing_jit: Daemon) -> Iterator[Daemon]:
    """The `shared` daemon with JIT enabled."""
    yield standing_jit
    tidy(standing_jit, ["tiny/llama"])


@pytest.fixture(scope="module")
def taught(shared: Daemon) -> Daemon:
    shared.load({"model": QUESTIONS})
    return shared


@pytest.fixture
def client(taught: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{taught.url}/v1", api_key="none", max_retries=0) as client:
        yield client

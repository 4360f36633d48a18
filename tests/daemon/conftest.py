"""The demo's model in a module's daemon, and the official client of it."""

from collections.abc import Iterator

import openai
import pytest

from tests.conftest import QUESTIONS
from tests.support import Daemon


@pytest.fixture(scope="module")
def taught(shared: Daemon) -> Daemon:
    shared.load({"model": QUESTIONS})
    return shared


@pytest.fixture
def client(taught: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{taught.url}/v1", api_key="none", max_retries=0) as client:
        yield client

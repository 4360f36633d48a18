"""Set up what a worker needs before it loads a model."""

import pytest

from reconciler.worker import overrides


@pytest.fixture(autouse=True)
def in_force() -> None:
    overrides.install()

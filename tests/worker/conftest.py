"""What a worker does before it loads anything."""

import pytest

from reconciler.worker import overrides


@pytest.fixture(autouse=True)
def in_force() -> None:
    overrides.install()

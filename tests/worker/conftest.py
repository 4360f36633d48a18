"""What a worker does before it loads anything."""

import pytest

from reconciler.worker import force


@pytest.fixture(autouse=True)
def in_force() -> None:
    force.install()

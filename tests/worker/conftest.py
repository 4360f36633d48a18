"""Set up what a worker needs before it loads a model."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from reconciler.worker import overrides


@pytest.fixture(autouse=True)
def in_force() -> None:
    overrides.install()


@pytest.fixture(scope="module", autouse=True)
def unfused() -> Iterator[None]:
    """Fuse no operations on a CPU, where g++ takes most of a second for each fused kernel.

    A kernel holds the constants of a call, such as a threshold, so each value needs another one.
    The workers of tests/daemon fuse operations.
    """
    if overrides.on_gpu():
        yield
        return
    mx.disable_compile()
    yield
    mx.enable_compile()

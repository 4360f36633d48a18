"""Set up what a worker needs before it loads a model."""

from collections.abc import Iterator

import mlx.core as mx
import pytest
from mlx_lm.models import base, cache

from reconciler.worker import overrides
from reconciler.worker.quantized_cache import QuantizedKVCache


@pytest.fixture(scope="module", autouse=True)
def in_force() -> Iterator[None]:
    """Replace functions of MLX and mlx_lm for one module; other tests need the originals."""
    with pytest.MonkeyPatch.context() as patch:
        kinds = [kind for kind in vars(cache).values() if isinstance(kind, type)]
        for owner, names in (
            (mx.fast, ("scaled_dot_product_attention",)),
            (base, ("quantized_scaled_dot_product_attention",)),
            *((kind, ("update_and_fetch", "make_mask")) for kind in [*kinds, QuantizedKVCache]),
        ):
            for name in names:
                if name in vars(owner):
                    patch.setattr(owner, name, vars(owner)[name])  # restored after the module
        overrides.install()
        yield


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

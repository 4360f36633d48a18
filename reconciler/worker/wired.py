"""One policy of wired memory for the process, and nobody who undoes it.

Wired memory cannot be paged out. mlx-lm sets the limit to what Metal recommends whenever it
generates, and each generator sets it back at its end to what it found: several of them undo each
other, and a large model can take a Mac down. Here the limit is set once, before any model is read,
or not at all.

No Mac was at hand: tests inject what Metal says.
"""

import platform
from importlib import import_module

import mlx.core as mx

from reconciler.core.facts import Wired
from reconciler.core.sizes import parse_size

FIRST_MACOS = 15
"""That has what MLX wires memory with, as the docstring of `mx.set_wired_limit` says."""


def install() -> None:
    """Keep mlx-lm's generators from setting a limit: those that we make, and its own functions'."""
    # By name: the attribute `generate` of the package is its function, not the module.
    for name in ("mlx_lm.utils", "mlx_lm.generate"):
        vars(import_module(name))["maybe_set_recommended_wired_limit"] = _leave_alone


def _leave_alone() -> None:
    """In place of mlx-lm's own: None says that there is nothing to put back."""


def apply(policy: str) -> Wired:
    """Set the limit as `policy` says: `off`, `recommended`, or a size. Once per process."""
    if policy == "off":
        return Wired()
    if not mx.metal.is_available():
        return Wired(policy, problem="MLX has no Metal here, which alone can wire memory")
    version = platform.mac_ver()[0]
    if int(version.partition(".")[0] or 0) < FIRST_MACOS:
        return Wired(policy, problem=f"it takes macOS {FIRST_MACOS}; this is {version}")
    recommended = int(mx.device_info()["max_recommended_working_set_size"])
    limit = recommended if policy == "recommended" else parse_size(policy)
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError) as error:
        most = f"; the system allows {recommended} bytes, see `sysctl iogpu.wired_limit_mb`"
        return Wired(policy, problem=f"{error}{most}")
    return Wired(policy, limit)

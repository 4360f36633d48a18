"""Set the process's limit of wired memory once, and keep mlx-lm from changing it.

Wired memory cannot be paged out. mlx-lm sets the limit to Metal's recommended size whenever it
generates, and each generator restores the previous limit at its end. Several generators overwrite
each other's limit, and a large model can crash a Mac. Here the limit is set once, before any model
is read, or not at all.

This code is not tested on a Mac: tests inject Metal's values.
"""

import platform
from importlib import import_module

import mlx.core as mx

from reconciler.core.facts import Wired
from reconciler.core.sizes import parse_size

FIRST_MACOS = 15
"""First macOS version with wired memory for MLX, according to `mx.set_wired_limit`'s docstring."""


def install() -> None:
    """Keep mlx-lm's generators, created by this program or by mlx-lm, from setting a limit."""
    # Imported by name: the attribute `generate` of the package is its function, not the module.
    for name in ("mlx_lm.utils", "mlx_lm.generate"):
        vars(import_module(name))["maybe_set_recommended_wired_limit"] = _leave_alone


def _leave_alone() -> None:
    """Replace mlx-lm's function: returning None means that there is no limit to restore."""


def apply(policy: str) -> Wired:
    """Set the limit by `policy`: `off`, `recommended`, or a size. Call it once per process."""
    if policy == "off":
        return Wired()
    if not mx.metal.is_available():
        return Wired(policy, problem="MLX has no Metal here, which is required to wire memory")
    version = platform.mac_ver()[0]
    if int(version.partition(".")[0] or 0) < FIRST_MACOS:
        return Wired(policy, problem=f"requires macOS {FIRST_MACOS}; this is {version}")
    recommended = int(mx.device_info()["max_recommended_working_set_size"])
    limit = recommended if policy == "recommended" else parse_size(policy)
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError) as error:
        most = f"; the system allows {recommended} bytes, see `sysctl iogpu.wired_limit_mb`"
        return Wired(policy, problem=f"{error}{most}")
    return Wired(policy, limit)

"""Facts about the machine from MLX and the operating system.

The code for macOS is not tested on macOS: tests inject the values that MLX and the system return.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil

from reconciler.core.facts import Machine, Wired

NOT_WIRED = Wired()

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def keep_no_buffers() -> None:
    """Make MLX's CPU backend release memory as soon as it is free.

    By default the backend caches 32 MB. The cache saves no time, as the C library caches small
    blocks itself. On a GPU, buffers are expensive to allocate, and MLX's default stays.
    """
    if mx.default_device().type != mx.DeviceType.gpu:
        mx.set_cache_limit(0)


def resident() -> int:
    """Resident memory of this process [bytes]."""
    return int(psutil.Process().memory_info().rss)


def machine(wired: Wired = NOT_WIRED, spare: int | None = None) -> Machine:
    """Facts about this machine as MLX reports them; `wired`: this process's wired memory.

    `spare`: memory of a spare worker with its child process [bytes]; None: that of this process.
    """
    device = mx.default_device()
    info = mx.device_info()
    spare = resident() if spare is None else spare
    return Machine(
        device="gpu" if device.type == mx.DeviceType.gpu else "cpu",
        device_name=str(info.get("device_name", "unknown")),
        memory_budget=memory_budget(
            info,
            psutil.virtual_memory().total,
            _cgroup_limit(),
            spare + _parent_bytes(psutil.Process()),
        ),
        mlx_version=version("mlx"),
        process_bytes=spare,
        wired=wired,
    )


def memory(before: int) -> int:
    """Memory of this process [bytes]; `before`: its memory before MLX allocated anything.

    Returns the larger of two figures: the resident size, which may not include GPU buffers and
    leaves out allocated pages that were never written, and the size that MLX has allocated.
    """
    return max(resident(), before + mx.get_active_memory() + mx.get_cache_memory())


def memory_budget(
    info: Mapping[str, Any], physical: int, cgroup: int | None, besides: int = 0
) -> int:
    """Memory that models may use [bytes]; `besides`: memory of the daemon and its spare worker.

    On Metal: `max_recommended_working_set_size`, beyond which macOS starts to evict. On another
    GPU: the GPU's memory. On the CPU backend: the memory of the machine or its cgroup, less
    `besides`, which no ledger contains. On a GPU, `besides` is not part of the budgeted memory.
    """
    for key in ("max_recommended_working_set_size", "total_memory"):
        if info.get(key):
            return int(info[key])
    return max(0, min(physical, cgroup or physical) - besides)


def _parent_bytes(process: psutil.Process) -> int:
    """Resident memory of the daemon that started this worker [bytes]; 0 if it has just ended."""
    try:
        parent = process.parent()
        return int(parent.memory_info().rss) if parent is not None else 0
    except psutil.Error:
        return 0


def _cgroup_limit() -> int | None:
    try:
        text = CGROUP_LIMIT.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

"""Facts asked of MLX and the operating system about the machine.

What is asked on macOS was not run there by this project's tests: they inject the answers.
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
    """Have MLX's CPU backend give memory back as soon as it is free.

    It keeps 32 MB of it otherwise, which costs as much and saves no time: the C library keeps
    small blocks itself. On a GPU buffers are dear to make, and MLX's default is left alone.
    """
    if mx.default_device().type != mx.DeviceType.gpu:
        mx.set_cache_limit(0)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)


def machine(wired: Wired = NOT_WIRED, spare: int | None = None) -> Machine:
    """The facts of this machine, as MLX sees it; `wired` is what this process has wired.

    `spare`: bytes that a spare worker takes with its child process; None: as this process does.
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
    """Bytes that this process takes now; `before` are those before MLX allocated anything.

    What a GPU's buffers take is not always told as the process's own, and what is allocated but
    was not written to is not there yet: the larger of both counts.
    """
    return max(resident(), before + mx.get_active_memory() + mx.get_cache_memory())


def memory_budget(
    info: Mapping[str, Any], physical: int, cgroup: int | None, besides: int = 0
) -> int:
    """Bytes that models may take; `besides` is what the daemon and its spare worker take.

    On Metal `max_recommended_working_set_size`, beyond which macOS starts to evict; on another
    GPU its own memory; on the CPU backend what the machine or its cgroup has, less `besides`,
    which is in no ledger. On a GPU that is not the memory that is dealt out.
    """
    for key in ("max_recommended_working_set_size", "total_memory"):
        if info.get(key):
            return int(info[key])
    return max(0, min(physical, cgroup or physical) - besides)


def _parent_bytes(process: psutil.Process) -> int:
    """What the daemon takes that started this worker; nothing where it has just ended."""
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

"""Facts of this machine, by which manifests may pick it.

What macOS is asked was not run on a Mac.
"""

import platform
import re
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from reconciler.host.run import Run

FACTS = ("host", "chip", "memory_gb", "gpu_cores", "os", "os_version", "mlx")
"""Labels that every node has by itself, those that are known."""


def facts(run: Run) -> dict[str, str]:
    """The labels that the machine gives itself; what cannot be found out is left out."""
    system = platform.system()
    mac = system == "Darwin"
    known = {
        "host": socket.gethostname().partition(".")[0],
        "chip": sysctl(run, "machdep.cpu.brand_string") if mac else _processor(),
        "memory_gb": str(round(psutil.virtual_memory().total / 2**30)),
        "gpu_cores": _gpu_cores(run) if mac else "",
        "os": "macos" if mac else system.lower(),
        "os_version": platform.mac_ver()[0] if mac else platform.release(),
        "mlx": _mlx(),
    }
    return {key: known[key] for key in FACTS if known[key]}


def labels(facts: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """All labels of a node; what it was given goes before what it found."""
    return {**facts, **given}


def sysctl(run: Run, name: str) -> str:
    """A value of macOS' kernel; empty where it has none of that name."""
    output = run(("sysctl", "-n", name))
    return output.text.strip() if output.code == 0 else ""


def _gpu_cores(run: Run) -> str:
    """As the registry of devices has it, which `system_profiler` reads too, but slowly."""
    output = run(("ioreg", "-r", "-d", "1", "-c", "AGXAccelerator"))
    found = re.search(r'"gpu-core-count" = (\d+)', output.text)
    return found[1] if found else ""


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _mlx() -> str:
    """The version of the package; importing it is the worker's business."""
    try:
        return version("mlx")
    except PackageNotFoundError:
        return ""

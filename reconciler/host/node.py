"""Facts about this machine, as labels for the node selectors of manifests.

The commands for macOS have not been run on a Mac.
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
"""Labels that every node has automatically, if known."""


def facts(run: Run) -> dict[str, str]:
    """Labels detected on this machine; unknown ones are omitted."""
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
    """Labels of a node; given ones take precedence over detected ones."""
    return {**facts, **given}


def sysctl(run: Run, name: str) -> str:
    """Value of a macOS kernel variable; empty if there is none of that name."""
    output = run(("sysctl", "-n", name))
    return output.text.strip() if output.code == 0 else ""


def _gpu_cores(run: Run) -> str:
    """Number of GPU cores from the I/O registry, which `system_profiler` reads more slowly."""
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
    """Version of the installed package; only workers import it."""
    try:
        return version("mlx")
    except PackageNotFoundError:
        return ""

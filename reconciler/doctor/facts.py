"""Facts about the machine for doctor. The macOS commands have not been run on a Mac."""

import os
import platform as python_platform
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from reconciler.doctor.findings import Platform
from reconciler.host.node import sysctl
from reconciler.host.run import Run
from reconciler.store import left_in

DISCARD_PORT = 9
"""RFC 863: a service on this port discards all data."""


def platform(run: Run) -> Platform:
    """Return the operating system and chip."""
    system, machine = python_platform.system(), python_platform.machine()
    if system != "Darwin":
        return Platform(system, machine, python_platform.release())
    limit = sysctl(run, "iogpu.wired_limit_mb")
    return Platform(
        system,
        machine,
        python_platform.mac_ver()[0],
        chip=sysctl(run, "machdep.cpu.brand_string"),
        translated=sysctl(run, "sysctl.proc_translated") == "1",
        wired_limit_mb=int(limit) if limit.isdigit() else None,
    )


def router(run: Run) -> str | None:
    """Parse the router's address from the output of macOS' `route`."""
    output = run(("route", "-n", "get", "default"))
    found = re.search(r"^\s*gateway: ([0-9.]+)$", output.text, re.MULTILINE)
    return found[1] if found else None


def reach(address: str) -> int | None:
    """Send a datagram; returns None on success, else the errno."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect((address, DISCARD_PORT))
            sender.send(b"")
        except OSError as error:
            return error.errno or -1
    return None


def existing(path: Path) -> Path:
    """Return the path, or its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def writable(path: Path) -> bool:
    """True if it can be written or created."""
    return os.access(existing(path), os.W_OK)


def free_space(path: Path) -> int:
    """Free bytes on its disk."""
    return shutil.disk_usage(existing(path)).free


def broken(path: Path) -> tuple[Path, ...]:
    """Return the quarantined databases in a directory."""
    return left_in(path)


def mode(path: Path | None) -> int | None:
    """Permissions of a file; None if it does not exist."""
    try:
        return path.stat().st_mode & 0o777 if path is not None else None
    except OSError:
        return None


def first_line(run: Run, command: Sequence[str]) -> str | None:
    """Return the first line of a command's output; None if it fails."""
    output = run(command)
    return output.text.strip().splitlines()[0] if output.code == 0 and output.text.strip() else None

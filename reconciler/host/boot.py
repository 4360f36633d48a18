"""Id of the current boot of the machine; it changes after a reboot or a crash of the machine.

The commands for macOS have not been run on a Mac.
"""

import platform
from pathlib import Path

from reconciler.host.node import sysctl
from reconciler.host.run import Run

LINUX = Path("/proc/sys/kernel/random/boot_id")


def boot_id(run: Run) -> str:
    """The operating system's id of this boot; empty if it provides none."""
    if platform.system() == "Darwin":
        return sysctl(run, "kern.bootsessionuuid")
    try:
        return LINUX.read_text("utf-8").strip()
    except OSError:
        return ""

"""Which start of the machine this is: another id after a reboot or a crash, the same until then.

What macOS is asked was not run on a Mac.
"""

import platform
from pathlib import Path

from reconciler.host.node import sysctl
from reconciler.host.run import Run

LINUX = Path("/proc/sys/kernel/random/boot_id")


def boot_id(run: Run) -> str:
    """The id that the operating system gave to this start; empty where it gives none."""
    if platform.system() == "Darwin":
        return sysctl(run, "kern.bootsessionuuid")
    try:
        return LINUX.read_text("utf-8").strip()
    except OSError:
        return ""

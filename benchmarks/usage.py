"""CPU time, page faults and bytes read of processes; other programs change them less than times."""

import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

_MINOR_FAULTS = 7
"""Index of minflt among the fields of /proc/PID/stat that follow the name of the program."""


@dataclass(frozen=True)
class Usage:
    """What processes used."""

    cpu: float
    """User and system time [s]."""
    faults: int = 0
    """Page faults that needed no disk; 0 if the system does not count them for others."""
    read: int = 0
    """Bytes that were read, from the page cache or a disk; 0 if the system does not count them."""

    def since(self, before: "Usage") -> "Usage":
        """Usage since another measurement."""
        return Usage(self.cpu - before.cpu, self.faults - before.faults, self.read - before.read)


NOTHING = Usage(0.0)


def of_tree(process: psutil.Process) -> dict[int, Usage]:
    """Usage of a process and its descendants so far, by process id."""
    found: dict[int, Usage] = {}
    for one in (process, *process.children(recursive=True)):
        try:
            found[one.pid] = _of(one)
        except (psutil.Error, OSError):  # it has just ended
            continue
    return found


def between(before: dict[int, Usage], after: dict[int, Usage]) -> Usage:
    """Total usage between two measurements of a tree, in which no process ended."""
    used = [one.since(before.get(pid, NOTHING)) for pid, one in after.items()]
    return Usage(
        sum(one.cpu for one in used), sum(one.faults for one in used), sum(one.read for one in used)
    )


def of_ended_children() -> Usage:
    """Usage of this process's children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Usage(used.ru_utime + used.ru_stime, used.ru_minflt)


def _of(process: psutil.Process) -> Usage:
    times = process.cpu_times()
    cpu = times.user + times.system
    folder = Path("/proc", str(process.pid))
    if not folder.is_dir():  # not on Linux
        return Usage(cpu)
    fields = (folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    counters = dict(line.split(": ") for line in (folder / "io").read_text("ascii").splitlines())
    return Usage(cpu, int(fields[_MINOR_FAULTS]), int(counters["rchar"]))

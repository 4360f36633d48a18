"""Which records may have brought the daemon or the whole machine down, and since when not any more.

MLX workloads are known to panic macOS. What does it at each start would do so for ever.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.core.errors import Problem, Reason
from reconciler.core.plan import Kind
from reconciler.core.records import Record

LIMIT = 2
"""Crashes in a row after which a record is not loaded any more."""

FORGIVEN_SECONDS = 3600.0
"""A record that stayed loaded this long has nothing to do with earlier crashes."""

LOADS = frozenset(kind.value for kind in (Kind.LOAD, Kind.ATTACH, Kind.RECONFIGURE, Kind.RELOAD))


@dataclass(frozen=True)
class CrashRecord:
    """Crashes in a row that one generation of a record was there at."""

    generation: int
    daemon_crashes: int = 0
    """The daemon ended in the middle of a load; the machine went on."""
    machine_crashes: int = 0
    """The machine went down in the middle of a load, or with it loaded."""
    last_at: datetime | None = None
    """When the newest was found."""

    @property
    def crashes(self) -> int:
        """All of them."""
        return self.daemon_crashes + self.machine_crashes


@dataclass(frozen=True)
class InterruptedAttempt:
    """An attempt that has no end."""

    name: str
    created_at: datetime
    """Of the record."""
    generation: int
    action: str


@dataclass(frozen=True)
class LastRun:
    """The run of the daemon before this one, as it left things."""

    boot_id: str
    """Of the machine's start; empty where it is not known."""
    clean: bool
    """Whether it was stopped, rather than cut off."""
    interrupted: tuple[InterruptedAttempt, ...] = ()
    loaded: frozenset[str] = frozenset()
    """Names of the instances that it held at its end."""


def after_start(
    records: Iterable[Record],
    known: Mapping[str, CrashRecord],
    last: LastRun | None,
    boot_id: str,
    at: datetime,
) -> dict[str, CrashRecord]:
    """The suspicions with which a run begins, by name. One crash counts once for a record."""
    rebooted = last is not None and bool(last.boot_id and boot_id) and last.boot_id != boot_id
    found = {}
    for record in records:
        suspicion = known.get(record.name)
        if suspicion is None or suspicion.generation != record.generation:
            suspicion = CrashRecord(record.generation)
        if last is not None and not last.clean and _was_there(record, last, rebooted=rebooted):
            suspicion = replace(
                suspicion,
                daemon_crashes=suspicion.daemon_crashes + (not rebooted),
                machine_crashes=suspicion.machine_crashes + rebooted,
                last_at=at,
            )
        if suspicion.crashes:
            found[record.name] = suspicion
    return found


def _was_there(record: Record, last: LastRun, *, rebooted: bool) -> bool:
    loading = any(
        (one.name, one.created_at, one.generation)
        == (record.name, record.created_at, record.generation)
        and one.action in LOADS
        for one in last.interrupted
    )
    return loading or (rebooted and record.name in last.loaded)


def after_success(suspicion: CrashRecord | None) -> CrashRecord | None:
    """What is left of a suspicion once the record is loaded.

    A daemon that is killed again and again says nothing about a model that then loads; a machine
    that went down does.
    """
    return suspicion if suspicion is not None and suspicion.machine_crashes else None


def problem(record: Record, suspicion: CrashRecord | None) -> Problem | None:
    """Why a record is not loaded, if crashes keep it from being so."""
    if suspicion is None or suspicion.generation != record.generation:
        return None
    if suspicion.crashes < LIMIT:
        return None
    seen = []
    if suspicion.machine_crashes:
        times = _times(suspicion.machine_crashes)
        seen.append(f"the machine went down {times} while it was loaded or being loaded")
    if suspicion.daemon_crashes:
        seen.append(f"the daemon crashed {_times(suspicion.daemon_crashes)} while loading it")
    last = f", last before {suspicion.last_at:%Y-%m-%d %H:%M:%S} UTC" if suspicion.last_at else ""
    words = (
        f"{' and '.join(seen)}{last}; it is not loaded until its spec changes, or "
        f"`reconciler clear {record.name}`"
    )
    return Problem(Reason.SUSPECTED_HOST_CRASH, words)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"

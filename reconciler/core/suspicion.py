"""Records suspected of having crashed the daemon or the machine, and when that suspicion ends.

MLX workloads are known to panic macOS. A model that does so at each start would crash the machine
again and again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.core.errors import Problem, Reason
from reconciler.core.plan import Kind
from reconciler.core.records import Record

LIMIT = 2
"""Consecutive crashes after which a record is no longer loaded."""

FORGIVEN_SECONDS = 3600.0
"""A record that stays loaded this long is cleared of earlier crashes."""

LOADS = frozenset(kind.value for kind in (Kind.LOAD, Kind.ATTACH, Kind.RECONFIGURE, Kind.RELOAD))


@dataclass(frozen=True)
class CrashRecord:
    """Consecutive crashes while one generation of a record was being loaded or was loaded."""

    generation: int
    daemon_crashes: int = 0
    """Crashes of the daemon during a load, while the machine kept running."""
    machine_crashes: int = 0
    """Crashes of the machine during a load, or while it was loaded."""
    last_at: datetime | None = None
    """Time at which the latest was detected."""

    @property
    def crashes(self) -> int:
        """Total number of crashes."""
        return self.daemon_crashes + self.machine_crashes


@dataclass(frozen=True)
class InterruptedAttempt:
    """An attempt without a recorded end."""

    name: str
    created_at: datetime
    """Creation time of the record."""
    generation: int
    action: str


@dataclass(frozen=True)
class LastRun:
    """The previous run of the daemon, as it was recorded."""

    boot_id: str
    """Id of the machine's boot; empty if unknown."""
    clean: bool
    """True if it was stopped, False if it was interrupted."""
    interrupted: tuple[InterruptedAttempt, ...] = ()
    loaded: frozenset[str] = frozenset()
    """Names of the instances loaded at its end."""


def after_start(
    records: Iterable[Record],
    known: Mapping[str, CrashRecord],
    last: LastRun | None,
    boot_id: str,
    at: datetime,
) -> dict[str, CrashRecord]:
    """The suspicions at the start of a run, by name. A crash counts once per record."""
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
    """The suspicion that remains after the record is loaded.

    Crashes of the daemon are no evidence against a model that then loads; crashes of the machine
    are.
    """
    return suspicion if suspicion is not None and suspicion.machine_crashes else None


def problem(record: Record, suspicion: CrashRecord | None) -> Problem | None:
    """The problem of a record that is not loaded because of crashes, or None."""
    if suspicion is None or suspicion.generation != record.generation:
        return None
    if suspicion.crashes < LIMIT:
        return None
    seen = []
    if suspicion.machine_crashes:
        times = _times(suspicion.machine_crashes)
        seen.append(f"the machine crashed {times} while it was loaded or being loaded")
    if suspicion.daemon_crashes:
        seen.append(f"the daemon crashed {_times(suspicion.daemon_crashes)} while loading it")
    last = f", last before {suspicion.last_at:%Y-%m-%d %H:%M:%S} UTC" if suspicion.last_at else ""
    words = (
        f"{' and '.join(seen)}{last}; to load it again, change its spec or run "
        f"`reconciler clear {record.name}`"
    )
    return Problem(Reason.SUSPECTED_HOST_CRASH, words)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"

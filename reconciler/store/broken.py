"""Quarantine of a damaged database, and salvage of the rows that can still be read."""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from reconciler.core.records import HTTP, Generation, Record, Status
from reconciler.store import rows
from reconciler.store.database import NAME

T = TypeVar("T")

MARK = ".broken-"
"""Separates the name of a database from the time of its quarantine."""

FILES = ("", "-wal", "-shm")
"""Suffixes of the files of a database."""


@dataclass(frozen=True)
class Salvaged:
    """Rows read from a damaged database."""

    records: tuple[tuple[Record, Status], ...] = ()
    suspended: tuple[str, ...] = ()
    history: tuple[Generation, ...] = ()
    lost: tuple[str, ...] = ()
    """Names of HTTP records that existed and cannot be read."""


@dataclass(frozen=True)
class Quarantined:
    """A damaged database that has been moved away."""

    path: Path
    why: str
    salvaged: Salvaged = field(default_factory=Salvaged)

    @property
    def words(self) -> str:
        """Message for users: what happened, and what is lost."""
        saved = self.salvaged
        http = sum(record.owner == HTTP for record, _ in saved.records)
        lost = ", ".join(saved.lost) or "none by name"
        return (
            f"the database was damaged ({self.why}) and was set aside as {self.path}; a new one "
            f"was created. Manifests are read again. Saved: {http} http records, "
            f"{len(saved.history)} generations of history, {len(saved.suspended)} suspended "
            f"sources. Known to be lost: {lost}. Other content (http records, history, last good "
            "specs, suspended sources) is lost if it is not listed now"
        )


def quarantine(directory: Path, why: str, at: datetime) -> Quarantined:
    """Rename the database in `directory`, and read what can be read of it. Raises OSError."""
    begun = directory / NAME
    stem = f"{NAME}{MARK}{at:%Y%m%d-%H%M%S}"
    kept, count = directory / stem, 1
    while kept.exists():
        count += 1
        kept = directory / f"{stem}-{count}"
    # The log first: a database without its log may look intact.
    for suffix in reversed(FILES):
        file = begun.with_name(begun.name + suffix)
        if file.exists():
            file.rename(kept.with_name(kept.name + suffix))
    return Quarantined(kept, why, salvage(kept))


def left_in(directory: Path) -> tuple[Path, ...]:
    """Quarantined databases in a state directory."""
    found = sorted(directory.glob(f"{NAME}{MARK}*"))
    return tuple(path for path in found if not path.name.endswith(FILES[1:]))


def salvage(path: Path) -> Salvaged:
    """Read the intact rows of a database, from a copy; the file itself is not modified."""
    try:
        with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
            copy = Path(directory) / NAME
            for suffix in FILES[:2]:
                file = path.with_name(path.name + suffix)
                if file.exists():
                    shutil.copyfile(file, copy.with_name(copy.name + suffix))
            with contextlib.closing(sqlite3.connect(copy)) as db:
                db.row_factory = sqlite3.Row
                # Lets SQLite continue in a file that is shorter than its header states.
                db.execute("PRAGMA writable_schema = ON")
                return _read(db)
    except (OSError, sqlite3.Error):
        return Salvaged()


def _read(db: sqlite3.Connection) -> Salvaged:
    statuses = dict(_rows(db, "status", lambda row: (row["name"], rows.to_status(row["json"]))))
    records = {r.name: r for r in _rows(db, "records", rows.to_record)}
    history = sorted(_rows(db, "history", lambda row: (row["id"], rows.to_generation(row))))
    generations = tuple(generation for _, generation in history)
    wanted = {g.name for g in generations if g.ended_at is None and g.owner == HTTP}
    foreign = {g.name for g in generations if g.ended_at is None and g.owner != HTTP}
    indexed = {row["name"] for row in _walk(db, "SELECT name FROM records ORDER BY name")}
    lost = (wanted | (indexed - foreign)) - records.keys()
    return Salvaged(
        tuple((record, statuses.get(name, Status())) for name, record in records.items()),
        tuple(_rows(db, "suspended_sources", lambda row: str(row["name"]))),
        generations,
        tuple(sorted(lost)),
    )


def _rows(db: sqlite3.Connection, table: str, convert: Callable[[sqlite3.Row], T]) -> list[T]:
    """Valid rows, read from both ends up to the damage."""
    found: dict[int, T] = {}
    for direction in ("ASC", "DESC"):
        query = f"SELECT rowid AS row, * FROM {table} NOT INDEXED ORDER BY rowid {direction}"  # noqa: S608
        for row in _walk(db, query):
            with contextlib.suppress(ValueError, IndexError):
                found.setdefault(row["row"], convert(row))
    return list(found.values())


def _walk(db: sqlite3.Connection, query: str) -> Iterator[sqlite3.Row]:
    """Rows up to the first that cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from db.execute(query)

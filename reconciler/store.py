"""SQLite: records, status, history and attempts survive the daemon.

Every write is one short transaction, durable when the call returns, made on the event loop:
they are rare, and an answer that was given must be true after a crash.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from reconciler.core.records import Generation, LoadSpec, Outcome, Record, Status

_RECORDS = """
CREATE TABLE records (
    name        TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,
    spec        TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    created_at  TEXT NOT NULL,
    file        TEXT,
    line        INTEGER,
    provisional INTEGER NOT NULL,
    last_good   TEXT
) STRICT;
CREATE TABLE status (
    name TEXT PRIMARY KEY REFERENCES records (name) ON DELETE CASCADE,
    json TEXT NOT NULL
) STRICT;
-- Written before an action starts; one without an end was cut short by a crash.
CREATE TABLE attempts (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    generation INTEGER NOT NULL,
    action     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at   TEXT,
    outcome    TEXT
) STRICT;
CREATE INDEX attempts_by_name ON attempts (name, id);
"""

_HISTORY = """
CREATE TABLE history (
    id                INTEGER PRIMARY KEY,
    name              TEXT NOT NULL,
    created_at        TEXT NOT NULL,
    generation        INTEGER NOT NULL,
    owner             TEXT NOT NULL,
    file              TEXT,
    line              INTEGER,
    spec              TEXT NOT NULL,
    wanted_at         TEXT NOT NULL,
    outcome           TEXT NOT NULL,
    message           TEXT NOT NULL DEFAULT '',
    settled_at        TEXT,
    load_time_seconds REAL,
    ended_at          TEXT,
    UNIQUE (name, created_at, generation)
) STRICT;
CREATE INDEX history_by_name ON history (name, id);
"""

_SOURCES = """
CREATE TABLE suspended_sources (name TEXT PRIMARY KEY) STRICT;
"""

_SCHEMAS = (_RECORDS, _HISTORY, _SOURCES)
"""Each adds to the ones before it; a database holds the number of those that it has."""

SCHEMA_VERSION = len(_SCHEMAS)

KEPT_ATTEMPTS = 20
"""Per record; older ones are deleted."""

KEPT_ALL_ATTEMPTS = 10_000
"""Of all names together, those of removed records included."""

KEPT_GENERATIONS = 20
"""Of a record's history."""

KEPT_HISTORY = 10_000
"""Generations of all names together, those of removed records included."""


class StoreError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


class Store:
    """The daemon's memory, under one directory that it alone may use."""

    def __init__(self, directory: Path) -> None:
        """Open it, making what is not there. Raises `StoreError`."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot write to state directory {directory}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise StoreError(
                f"another reconciler (pid {pid or 'unknown'}) uses state directory {directory}; "
                "stop it, or name another one with --state"
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
            self._db = _open(directory / "reconciler.db")
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise StoreError(f"cannot use state directory {directory}: {error}") from None

    def close(self) -> None:
        """Close it and let others in."""
        self._db.close()
        os.close(self._lock)

    def load(self) -> list[tuple[Record, Status]]:
        """Every record with its last known status."""
        rows = self._db.execute(
            "SELECT records.*, status.json FROM records LEFT JOIN status USING (name)"
        )
        return [(_record(row), _status(row["json"])) for row in rows]

    def put(self, record: Record, status: Status, at: datetime) -> None:
        """Write a record and its status, whether it is there or not.

        A generation that is new at `at` enters the history.
        """
        with self._transaction() as db:
            _enter(db, record, at)
            db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) "
                "DO UPDATE SET owner = excluded.owner, spec = excluded.spec, "
                "generation = excluded.generation, created_at = excluded.created_at, "
                "file = excluded.file, line = excluded.line, "
                "provisional = excluded.provisional, last_good = excluded.last_good",
                (
                    record.name,
                    record.owner,
                    _json(record.spec),
                    record.generation,
                    record.created_at.isoformat(),
                    record.file,
                    record.line,
                    record.provisional,
                    _json(record.last_good) if record.last_good is not None else None,
                ),
            )
            db.execute(
                "INSERT INTO status VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET json = excluded.json",
                (record.name, _json(status)),
            )

    def remove(self, name: str, at: datetime) -> None:
        """Forget a record and its status; its attempts and its history stay."""
        with self._transaction() as db:
            _end(db, name, "Removed", at)
            db.execute("DELETE FROM records WHERE name = ?", (name,))

    def note_outcome(
        self, record: Record, outcome: Outcome, message: str, at: datetime, load_time: float | None
    ) -> None:
        """Write into the history what became of the record's generation."""
        with self._transaction() as db:
            db.execute(
                "UPDATE history SET outcome = ?, message = ?, settled_at = ?, "
                "load_time_seconds = ? WHERE name = ? AND created_at = ? AND generation = ?",
                (
                    *(outcome, message, at.isoformat(), load_time),
                    *(record.name, record.created_at.isoformat(), record.generation),
                ),
            )

    def history(self, name: str | None = None) -> list[Generation]:
        """The kept generations of a record, or of all, the newest first."""
        rows = self._db.execute(
            "SELECT * FROM history WHERE ? IS NULL OR name = ? ORDER BY id DESC", (name, name)
        )
        return [_generation(row) for row in rows]

    def is_suspended(self, source: str) -> bool:
        """Whether somebody said not to follow a source."""
        query = "SELECT 1 FROM suspended_sources WHERE name = ?"
        return self._db.execute(query, (source,)).fetchone() is not None

    def note_suspended(self, source: str, *, suspended: bool) -> None:
        """Keep that a source is not to be followed, or that it is."""
        with self._transaction() as db:
            db.execute("DELETE FROM suspended_sources WHERE name = ?", (source,))
            if suspended:
                db.execute("INSERT INTO suspended_sources VALUES (?)", (source,))

    def begin_attempt(
        self, name: str, generation: int, action: str, reason: str, at: datetime
    ) -> int:
        """Note that an action is about to start; returns the attempt's id."""
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO attempts (name, generation, action, reason, started_at) "
                "VALUES (?, ?, ?, ?, ?)",
                (name, generation, action, reason, at.isoformat()),
            )
            db.execute(
                "DELETE FROM attempts WHERE name = ? AND id NOT IN "
                "(SELECT id FROM attempts WHERE name = ? ORDER BY id DESC LIMIT ?)",
                (name, name, KEPT_ATTEMPTS),
            )
            db.execute(
                "DELETE FROM attempts WHERE ended_at IS NOT NULL AND id <= ?",
                ((cursor.lastrowid or 0) - KEPT_ALL_ATTEMPTS,),
            )
        return int(cursor.lastrowid or 0)

    def end_attempt(self, attempt: int, outcome: str, at: datetime) -> None:
        """Note how an action ended."""
        with self._transaction() as db:
            db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = ? WHERE id = ?",
                (at.isoformat(), outcome, attempt),
            )

    def take_unfinished_attempts(self, at: datetime) -> list[tuple[str, str]]:
        """(name, action) of the attempts that a crash cut short; they count as ended then."""
        with self._transaction() as db:
            rows = db.execute("SELECT name, action FROM attempts WHERE ended_at IS NULL").fetchall()
            db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = 'cut short' WHERE ended_at IS NULL",
                (at.isoformat(),),
            )
        return [(row["name"], row["action"]) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._db:
            yield self._db


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path} was written by a newer reconciler (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); upgrade, or name another directory with --state"
            )
        if version < SCHEMA_VERSION:
            missing = "".join(_SCHEMAS[version:])
            db.executescript(f"BEGIN; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _enter(db: sqlite3.Connection, record: Record, at: datetime) -> None:
    """Begin a generation in the history, unless it is there already."""
    key = (record.name, record.created_at.isoformat(), record.generation)
    known = db.execute(
        "SELECT 1 FROM history WHERE name = ? AND created_at = ? AND generation = ?", key
    ).fetchone()
    if known:
        return
    _end(db, record.name, "Superseded", at)
    db.execute(
        "INSERT INTO history (name, created_at, generation, owner, file, line, spec, wanted_at, "
        "outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'Pending')",
        (*key, record.owner, record.file, record.line, _json(record.spec), at.isoformat()),
    )
    db.execute(
        "DELETE FROM history WHERE name = ? AND id NOT IN "
        "(SELECT id FROM history WHERE name = ? ORDER BY id DESC LIMIT ?)",
        (record.name, record.name, KEPT_GENERATIONS),
    )
    db.execute(
        "DELETE FROM history WHERE ended_at IS NOT NULL AND id <= "
        "(SELECT max(id) FROM history) - ?",
        (KEPT_HISTORY,),
    )


def _end(db: sqlite3.Connection, name: str, outcome: Outcome, at: datetime) -> None:
    """End the generation that is wanted now; `outcome` is its own if it never had another."""
    db.execute(
        "UPDATE history SET ended_at = ?, "
        "outcome = CASE outcome WHEN 'Pending' THEN ? ELSE outcome END "
        "WHERE name = ? AND ended_at IS NULL",
        (at.isoformat(), outcome, name),
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _record(row: sqlite3.Row) -> Record:
    last_good = row["last_good"]
    return Record(
        name=row["name"],
        owner=row["owner"],
        spec=msgspec.json.decode(row["spec"], type=LoadSpec),
        created_at=datetime.fromisoformat(row["created_at"]),
        generation=row["generation"],
        file=row["file"],
        line=row["line"],
        provisional=bool(row["provisional"]),
        last_good=msgspec.json.decode(last_good, type=LoadSpec) if last_good else None,
    )


def _generation(row: sqlite3.Row) -> Generation:
    values = dict(row)
    del values["id"]
    values["spec"] = msgspec.json.decode(row["spec"], type=LoadSpec)
    for key in ("created_at", "wanted_at", "settled_at", "ended_at"):
        values[key] = datetime.fromisoformat(row[key]) if row[key] else None
    return Generation(**values)


def _status(text: str | None) -> Status:
    return msgspec.json.decode(text, type=Status) if text else Status()

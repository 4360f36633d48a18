"""The database file: its schema, how it is opened, and its integrity check."""

import contextlib
import sqlite3
from pathlib import Path

from reconciler.store import rows

NAME = "reconciler.db"

JOURNAL_BYTES = 1_000_000
"""Size to which a longer write-ahead log is truncated after a checkpoint."""

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
-- Written before an action starts; one without an end was interrupted by a crash.
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

_RUNS = """
-- The current run of the daemon, or the last one: one row.
CREATE TABLE run (
    boot_id    TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at   TEXT
) STRICT;
-- The instances loaded in that run, for the start after a crash.
CREATE TABLE loaded (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE suspicions (
    name TEXT PRIMARY KEY REFERENCES records (name) ON DELETE CASCADE,
    json TEXT NOT NULL
) STRICT;
-- Written to check for free space after a failed write.
CREATE TABLE room (filler BLOB NOT NULL) STRICT;
-- Creation time of the record.
ALTER TABLE attempts ADD COLUMN created_at TEXT;
"""

_SCHEMAS = (_RECORDS, _HISTORY, _SOURCES, _RUNS)
"""Migrations in order; a database stores the number of those applied to it."""

SCHEMA_VERSION = len(_SCHEMAS)


class StoreError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


class BrokenError(Exception):
    """The database is damaged; the message says how."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database; create or migrate it if needed.

    Raises `StoreError` if a newer reconciler wrote it, `BrokenError` if it is damaged, and
    `sqlite3.Error` if it cannot be used for another reason.
    """
    if path.exists():
        _examine(path)
    db = sqlite3.connect(path)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # On macOS fsync leaves data in the drive's cache; elsewhere these do nothing.
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
        version = _version(db)
        if version < SCHEMA_VERSION:
            missing = "".join(_SCHEMAS[version:])
            db.executescript(f"BEGIN; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        # From here on writes run on the event loop, which must not wait for a lock.
        db.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        db.close()
        raise
    return db


def _examine(path: Path) -> None:
    """Check the database without modifying its files. Raises `StoreError` or `BrokenError`.

    A connection that may write would delete the log when it is closed, and a damaged database is
    kept with all its files.
    """
    if _was_emptied(path):
        raise BrokenError("it is empty")
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        try:
            version = _version(db)
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{path} was written by a newer reconciler (schema {version}, this one has "
                    f"{SCHEMA_VERSION}); upgrade, or use another directory with --state"
                )
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise BrokenError(str(verdict).replace("\n", " "))
            if version > 0:
                rows.read_all(db)
        except sqlite3.Error as error:
            if is_damage(error):
                raise BrokenError(str(error)) from None
            raise
        except ValueError as error:
            raise BrokenError(f"a record is invalid: {error}") from None


def _version(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _was_emptied(path: Path) -> bool:
    """True if the file exists and is empty, which a new database is only for a moment."""
    log = path.with_name(f"{path.name}-wal")
    return path.exists() and not path.stat().st_size and not (log.exists() and log.stat().st_size)


def is_damage(error: sqlite3.Error) -> bool:
    """True if an error means that the file is damaged, rather than temporarily unusable."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    damaged = code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return damaged or (code == sqlite3.SQLITE_ERROR and "no such table" in str(error))

"""The history of records: their generations, and the outcome of each."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from reconciler.core.records import Generation, Outcome, Record
from reconciler.store import rows

KEPT_GENERATIONS = 20
"""Generations kept per name."""

KEPT_HISTORY = 10_000
"""Generations kept of all names together, including removed records."""

PAGE = 200
"""Rows to read at once; takes about 2 ms."""


def enter(db: sqlite3.Connection, record: Record, at: datetime) -> None:
    """Add a generation to the history, unless it is already there."""
    key = (record.name, record.created_at.isoformat(), record.generation)
    known = db.execute(
        "SELECT 1 FROM history WHERE name = ? AND created_at = ? AND generation = ?", key
    ).fetchone()
    if known:
        return
    end(db, record.name, "Superseded", at)
    db.execute(
        "INSERT INTO history (name, created_at, generation, owner, file, line, spec, wanted_at, "
        "outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'Pending')",
        (*key, record.owner, record.file, record.line, rows.to_json(record.spec), at.isoformat()),
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


def end(db: sqlite3.Connection, name: str, outcome: Outcome, at: datetime) -> None:
    """End the current generation of a name; `outcome` applies if it is still pending."""
    db.execute(
        "UPDATE history SET ended_at = ?, "
        "outcome = CASE outcome WHEN 'Pending' THEN ? ELSE outcome END "
        "WHERE name = ? AND ended_at IS NULL",
        (at.isoformat(), outcome, name),
    )


def note_outcome(
    db: sqlite3.Connection,
    record: Record,
    outcome: Outcome,
    message: str,
    at: datetime,
    load_time: float | None,
) -> None:
    """Persist the outcome of the record's generation; `load_time` is in seconds."""
    db.execute(
        "UPDATE history SET outcome = ?, message = ?, settled_at = ?, "
        "load_time_seconds = ? WHERE name = ? AND created_at = ? AND generation = ?",
        (
            *(outcome, message, at.isoformat(), load_time),
            *(record.name, record.created_at.isoformat(), record.generation),
        ),
    )


def read(db: sqlite3.Connection, name: str | None) -> Iterator[Generation]:
    """The kept generations of a record, or of all, the newest first.

    They are read page by page: generations added meanwhile are left out, and those removed
    meanwhile may be.
    """
    query = (
        "SELECT * FROM history WHERE (? IS NULL OR name = ?) AND (? IS NULL OR id < ?) "
        "ORDER BY id DESC LIMIT ?"
    )
    last: int | None = None
    while page := db.execute(query, (name, name, last, last, PAGE)).fetchall():
        yield from map(rows.to_generation, page)
        last = page[-1]["id"]

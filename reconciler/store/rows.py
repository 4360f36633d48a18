"""Conversion of records, statuses and generations to rows, and back."""

import sqlite3
from dataclasses import fields
from datetime import datetime
from typing import Any

import msgspec

from reconciler.core.records import Generation, LoadSpec, Record, Status
from reconciler.core.suspicion import CrashRecord


def to_json(value: Any) -> str:
    """Encode dataclasses as JSON."""
    return msgspec.json.encode(value).decode()


def put_record(db: sqlite3.Connection, record: Record, status: Status) -> None:
    """Insert or update a record and its status."""
    last_good = to_json(record.last_good) if record.last_good is not None else None
    db.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) "
        "DO UPDATE SET owner = excluded.owner, spec = excluded.spec, "
        "generation = excluded.generation, created_at = excluded.created_at, "
        "file = excluded.file, line = excluded.line, "
        "provisional = excluded.provisional, last_good = excluded.last_good",
        (
            record.name,
            record.owner,
            to_json(record.spec),
            record.generation,
            record.created_at.isoformat(),
            record.file,
            record.line,
            record.provisional,
            last_good,
        ),
    )
    put_status(db, record.name, status)


def put_status(db: sqlite3.Connection, name: str, status: Status) -> None:
    """Insert or update the status of an existing record."""
    db.execute(
        "INSERT INTO status VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET json = excluded.json",
        (name, to_json(status)),
    )


def put_generation(db: sqlite3.Connection, generation: Generation) -> None:
    """Insert a generation from another database; an existing one is kept."""
    at = (generation.wanted_at, generation.settled_at, generation.ended_at)
    wanted_at, settled_at, ended_at = (time.isoformat() if time else None for time in at)
    db.execute(
        "INSERT OR IGNORE INTO history (name, created_at, generation, owner, file, line, spec, "
        "wanted_at, outcome, message, settled_at, load_time_seconds, ended_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(generation.name, generation.created_at.isoformat(), generation.generation),
            *(generation.owner, generation.file, generation.line, to_json(generation.spec)),
            *(wanted_at, generation.outcome, generation.message),
            *(settled_at, generation.load_time_seconds, ended_at),
        ),
    )


def read_all(db: sqlite3.Connection) -> list[tuple[Record, Status]]:
    """Every record with its last known status. Raises `ValueError` if a row is invalid."""
    found = db.execute("SELECT records.*, status.json FROM records LEFT JOIN status USING (name)")
    return [(to_record(row), to_status(row["json"])) for row in found]


def to_record(row: sqlite3.Row) -> Record:
    """Convert a row of `records`. Raises `ValueError`."""
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


def to_status(text: str | None) -> Status:
    """Decode a status. Raises `ValueError`."""
    return msgspec.json.decode(text, type=Status) if text else Status()


def to_suspicion(text: str) -> CrashRecord:
    """Decode a suspicion."""
    return msgspec.json.decode(text, type=CrashRecord)


def to_generation(row: sqlite3.Row) -> Generation:
    """Convert a row of `history`. Raises `ValueError`."""
    values = {field.name: row[field.name] for field in fields(Generation)}
    values["spec"] = msgspec.json.decode(row["spec"], type=LoadSpec)
    for key in ("created_at", "wanted_at", "settled_at", "ended_at"):
        values[key] = datetime.fromisoformat(row[key]) if row[key] else None
    return Generation(**values)

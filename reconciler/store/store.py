"""SQLite store of records, status, history and attempts, which survive the daemon.

Every write is durable when the call returns, because a response that was sent must still be true
after a crash. Writes inside `transaction` are atomic. Writes run on the event loop and never wait
there: if another program locks the database, they fail at once, as on a full disk, and the caller
retries.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import Generation, Outcome, Record, Status
from reconciler.core.suspicion import CrashRecord, InterruptedAttempt, LastRun
from reconciler.store import history, rows
from reconciler.store.broken import Quarantined, quarantine
from reconciler.store.database import NAME, BrokenError, StoreError, connect, is_damage

KEPT_ATTEMPTS = 20
"""Attempts kept per record; older ones are deleted."""

KEPT_ALL_ATTEMPTS = 2_000
"""Attempts kept of all names together, including removed records."""

ROOM_BYTES = 64 * 1024
"""Free space required, in bytes, before writes resume after a full disk."""


class UnwritableError(LoadError):
    """A change could not be persisted, so it was not made."""

    def __init__(self, problem: Problem, *, locked: bool = False) -> None:
        """`locked`: True if another program locks the database, which is temporary."""
        super().__init__(problem)
        self.locked = locked


class Store:
    """Persistent state of the daemon, in a directory that it uses exclusively."""

    def __init__(self, directory: Path) -> None:
        """Open the store; create what is missing. A damaged database is quarantined.

        Raises `StoreError`.
        """
        self.problem: Problem | None = None
        """Problem of the last write; None if it succeeded."""
        self.on_problem: Callable[[Problem | None], None] = lambda _problem: None
        """Called with the problem when writes begin to fail, and with None when they succeed."""
        self.quarantined: Quarantined | None = None
        """The damaged database that was found, if any."""
        self.locked = False
        """True if the last write failed because another program locks the database."""
        self._in_transaction = False
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot write to state directory {directory}: {error.strerror}; "
                "fix that, or use another one with --state"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise StoreError(
                f"another reconciler (pid {pid or 'unknown'}) uses state directory {directory}; "
                "stop it, or use another directory with --state"
            ) from None
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise StoreError(
                f"cannot use state directory {directory}: {error}; "
                "fix that, or use another one with --state"
            ) from None
        except StoreError:
            os.close(self._lock)
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            return connect(self._directory / NAME)
        except BrokenError as error:
            self.quarantined = quarantine(self._directory, str(error), datetime.now(UTC))
        db = connect(self._directory / NAME)
        saved = self.quarantined.salvaged
        with db:
            for record, status in saved.records:
                rows.put_record(db, record, status)
            for source in saved.suspended:
                db.execute("INSERT OR IGNORE INTO suspended_sources VALUES (?)", (source,))
            for generation in saved.history:
                rows.put_generation(db, generation)
        return db

    def close(self) -> None:
        """Close the database and release the lock on the directory."""
        self._db.close()
        os.close(self._lock)

    def load(self) -> list[tuple[Record, Status]]:
        """Every record with its last known status."""
        return rows.read_all(self._db)

    def put(self, record: Record, status: Status, at: datetime) -> None:
        """Insert or update a record and its status.

        A new generation is added to the history with the time `at`. Raises `UnwritableError`, like
        every method that writes.
        """
        with self.transaction() as db:
            history.enter(db, record, at)
            rows.put_record(db, record, status)

    def put_status(self, name: str, status: Status) -> None:
        """Persist the status of a record that is already stored with its current spec."""
        with self.transaction() as db:
            rows.put_status(db, name, status)

    def remove(self, name: str, at: datetime) -> None:
        """Delete a record and its status; its attempts and its history are kept."""
        with self.transaction() as db:
            history.end(db, name, "Removed", at)
            db.execute("DELETE FROM records WHERE name = ?", (name,))

    def note_outcome(
        self, record: Record, outcome: Outcome, message: str, at: datetime, load_time: float | None
    ) -> None:
        """Persist the outcome of the record's generation in the history."""
        with self.transaction() as db:
            history.note_outcome(db, record, outcome, message, at, load_time)

    def history(self, name: str | None = None) -> Iterator[Generation]:
        """The kept generations of a record, or of all, the newest first.

        They are read during iteration: generations added meanwhile are left out.
        """
        return history.read(self._db, name)

    def is_suspended(self, source: str) -> bool:
        """True if a source is suspended."""
        query = "SELECT 1 FROM suspended_sources WHERE name = ?"
        return self._db.execute(query, (source,)).fetchone() is not None

    def note_suspended(self, source: str, *, suspended: bool) -> None:
        """Persist whether a source is suspended."""
        with self.transaction() as db:
            db.execute("DELETE FROM suspended_sources WHERE name = ?", (source,))
            if suspended:
                db.execute("INSERT INTO suspended_sources VALUES (?)", (source,))

    def begin_run(self, boot_id: str, at: datetime, suspicions: Mapping[str, CrashRecord]) -> None:
        """Persist the start of a run, with the suspicions that follow from the last one."""
        with self.transaction() as db:
            db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = 'cut short' WHERE ended_at IS NULL",
                (at.isoformat(),),
            )
            for table in ("loaded", "suspicions", "run"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
            for name, suspicion in suspicions.items():
                _suspect(db, name, suspicion)
            db.execute("INSERT INTO run VALUES (?, ?, NULL)", (boot_id, at.isoformat()))

    def end_run(self, at: datetime) -> None:
        """Persist the regular end of the run, and clear the suspicions of loaded records."""
        with self.transaction() as db:
            db.execute("DELETE FROM suspicions WHERE name IN (SELECT name FROM loaded)")
            db.execute("DELETE FROM loaded")
            db.execute("UPDATE run SET ended_at = ?", (at.isoformat(),))

    def last_run(self) -> LastRun | None:
        """The last run that was recorded, if any."""
        run = self._db.execute("SELECT * FROM run").fetchone()
        if run is None:
            return None
        interrupted = self._db.execute("SELECT * FROM attempts WHERE ended_at IS NULL")
        return LastRun(
            run["boot_id"],
            run["ended_at"] is not None,
            tuple(
                InterruptedAttempt(
                    row["name"],
                    datetime.fromisoformat(row["created_at"]),
                    row["generation"],
                    row["action"],
                )
                for row in interrupted
                if row["created_at"] is not None
            ),
            frozenset(row["name"] for row in self._db.execute("SELECT name FROM loaded")),
        )

    def suspicions(self) -> dict[str, CrashRecord]:
        """The suspicions of records, by name."""
        found = self._db.execute("SELECT * FROM suspicions")
        return {row["name"]: rows.to_suspicion(row["json"]) for row in found}

    def suspect(self, name: str, suspicion: CrashRecord | None) -> None:
        """Persist the suspicion of a record; None clears it."""
        with self.transaction() as db:
            _suspect(db, name, suspicion)

    def note_loaded(self, names: Collection[str]) -> None:
        """Persist the names of the loaded instances, in case the machine crashes."""
        with self.transaction() as db:
            _note_loaded(db, names)

    def begin_attempt(
        self,
        name: str,
        action: str,
        reason: str,
        at: datetime,
        record: Record | None = None,
    ) -> int:
        """Persist that an action is about to start; return the attempt's id.

        `record` is the record of the action; None: no record wants the instance.
        """
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO attempts (name, generation, action, reason, started_at, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    name,
                    record.generation if record is not None else 0,
                    action,
                    reason,
                    at.isoformat(),
                    record.created_at.isoformat() if record is not None else None,
                ),
            )
            db.execute(
                "DELETE FROM attempts WHERE name = ? AND id NOT IN "
                "(SELECT id FROM attempts WHERE name = ? ORDER BY id DESC LIMIT ?)",
                (name, name, KEPT_ATTEMPTS),
            )
            db.execute(
                "DELETE FROM attempts WHERE ended_at IS NOT NULL AND id <= "
                "(SELECT max(id) FROM attempts) - ?",
                (KEPT_ALL_ATTEMPTS,),
            )
        return int(cursor.lastrowid or 0)

    def end_attempt(
        self, attempt: int, outcome: str, at: datetime, loaded: Collection[str] | None = None
    ) -> None:
        """Persist the outcome of an action, and the names of the loaded instances if known."""
        with self.transaction() as db:
            db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = ? WHERE id = ?",
                (at.isoformat(), outcome, attempt),
            )
            if loaded is not None:
                _note_loaded(db, loaded)

    def try_to_write(self) -> Problem | None:
        """Retry after a failed write; return the problem, or None if writing succeeds.

        It writes more than one page, because the space for a single one would be used up at once.
        """
        if self.problem is None:
            return None
        try:
            with self._db as db:
                db.execute("DELETE FROM room")
                db.execute("INSERT INTO room VALUES (zeroblob(?))", (ROOM_BYTES,))
        except sqlite3.Error as error:
            self.problem, self.locked = self._unwritable(error), _is_lock(error)
        else:
            self.problem, self.locked = None, False
            self.on_problem(None)
        return self.problem

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Make the writes inside atomic. Raises `UnwritableError`.

        May be nested: an inner transaction that ends with an error other than the database's is
        rolled back alone.
        """
        if self._in_transaction:
            with self._savepoint():
                yield self._db
            return
        self._in_transaction = True
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.Error as error:
            before, self.problem = self.problem, self._unwritable(error)
            self.locked = _is_lock(error)
            if before is None:
                self.on_problem(self.problem)
            raise UnwritableError(self.problem, locked=self.locked) from error
        finally:
            self._in_transaction = False
        self.try_to_write()

    @contextlib.contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._db.execute("SAVEPOINT item")
        try:
            yield
        except sqlite3.Error:  # it has ended the whole transaction, or will end it
            raise
        except BaseException:
            self._db.execute("ROLLBACK TO item")
            self._db.execute("RELEASE item")
            raise
        self._db.execute("RELEASE item")

    def _unwritable(self, error: sqlite3.Error) -> Problem:
        advice = "check that its disk has free space and that it is writable"
        if is_damage(error):
            advice = (
                "restart the daemon, which sets the damaged database aside and creates a new one"
            )
        elif _is_lock(error):
            advice = f"another program uses {NAME}; stop it, and writes resume automatically"
        words = f"cannot write to state directory {self._directory}: {error}; {advice}"
        return Problem(Reason.STATE_UNWRITABLE, words, permanent=False)


def _is_lock(error: sqlite3.Error) -> bool:
    """True if another program locks the database."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _suspect(db: sqlite3.Connection, name: str, suspicion: CrashRecord | None) -> None:
    db.execute("DELETE FROM suspicions WHERE name = ?", (name,))
    if suspicion is not None:
        db.execute("INSERT INTO suspicions VALUES (?, ?)", (name, rows.to_json(suspicion)))


def _note_loaded(db: sqlite3.Connection, names: Collection[str]) -> None:
    db.execute("DELETE FROM loaded")
    db.executemany("INSERT INTO loaded VALUES (?)", [(name,) for name in sorted(names)])

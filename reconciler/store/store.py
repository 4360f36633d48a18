"""SQLite: records, status, history and attempts survive the daemon.

Every write is durable when the call returns, because an answer that was given must be true after
a crash. Writes inside `transaction` are one: all of them are done, or none. They are made on the
event loop, and never wait there: where another program locks the database, they fail at once as
on a full disk, and whoever wrote tries again.
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
"""Per record; older ones are deleted."""

KEPT_ALL_ATTEMPTS = 2_000
"""Of all names together, those of removed records included."""

ROOM_BYTES = 64 * 1024
"""What must be there before a disk that was full is taken to have room again."""


class UnwritableError(LoadError):
    """Something could not be written down, and so was not done."""

    def __init__(self, problem: Problem, *, locked: bool = False) -> None:
        """`locked`: True if another program locks the database, which passes."""
        super().__init__(problem)
        self.locked = locked


class Store:
    """The daemon's memory, under one directory that it alone may use."""

    def __init__(self, directory: Path) -> None:
        """Open it, making what is not there. A damaged database is set aside.

        Raises `StoreError`.
        """
        self.problem: Problem | None = None
        """Why the last write failed; None where it did not."""
        self.on_problem: Callable[[Problem | None], None] = lambda _problem: None
        """Is told when writes begin to fail, and when they do not fail any more."""
        self.quarantined: Quarantined | None = None
        """The damaged database that was found, if one was."""
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
                "fix that, or name another one with --state"
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
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise StoreError(
                f"cannot use state directory {directory}: {error}; "
                "fix that, or name another one with --state"
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
        """Close it and let others in."""
        self._db.close()
        os.close(self._lock)

    def load(self) -> list[tuple[Record, Status]]:
        """Every record with its last known status."""
        return rows.read_all(self._db)

    def put(self, record: Record, status: Status, at: datetime) -> None:
        """Write a record and its status, whether it is there or not.

        A generation that is new at `at` enters the history. Raises `UnwritableError`, as all that
        writes.
        """
        with self.transaction() as db:
            history.enter(db, record, at)
            rows.put_record(db, record, status)

    def put_status(self, name: str, status: Status) -> None:
        """Write the status of a record that is there as it is wanted now."""
        with self.transaction() as db:
            rows.put_status(db, name, status)

    def remove(self, name: str, at: datetime) -> None:
        """Forget a record and its status; its attempts and its history stay."""
        with self.transaction() as db:
            history.end(db, name, "Removed", at)
            db.execute("DELETE FROM records WHERE name = ?", (name,))

    def note_outcome(
        self, record: Record, outcome: Outcome, message: str, at: datetime, load_time: float | None
    ) -> None:
        """Write into the history what became of the record's generation."""
        with self.transaction() as db:
            history.note_outcome(db, record, outcome, message, at, load_time)

    def history(self, name: str | None = None) -> Iterator[Generation]:
        """The kept generations of a record, or of all, the newest first.

        They are read while they are iterated: those that come meanwhile are left out.
        """
        return history.read(self._db, name)

    def is_suspended(self, source: str) -> bool:
        """Whether somebody said not to follow a source."""
        query = "SELECT 1 FROM suspended_sources WHERE name = ?"
        return self._db.execute(query, (source,)).fetchone() is not None

    def note_suspended(self, source: str, *, suspended: bool) -> None:
        """Keep that a source is not to be followed, or that it is."""
        with self.transaction() as db:
            db.execute("DELETE FROM suspended_sources WHERE name = ?", (source,))
            if suspended:
                db.execute("INSERT INTO suspended_sources VALUES (?)", (source,))

    def begin_run(self, boot_id: str, at: datetime, suspicions: Mapping[str, CrashRecord]) -> None:
        """Note that a run begins, and what is suspected now that the last one is judged."""
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
        """Note that the run ends as it should: nothing that is loaded did any harm."""
        with self.transaction() as db:
            db.execute("DELETE FROM suspicions WHERE name IN (SELECT name FROM loaded)")
            db.execute("DELETE FROM loaded")
            db.execute("UPDATE run SET ended_at = ?", (at.isoformat(),))

    def last_run(self) -> LastRun | None:
        """The run that was noted last; None: none ever was."""
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
        """What crashes are held against records."""
        found = self._db.execute("SELECT * FROM suspicions")
        return {row["name"]: rows.to_suspicion(row["json"]) for row in found}

    def suspect(self, name: str, suspicion: CrashRecord | None) -> None:
        """Keep what is suspected of a record, or that nothing is."""
        with self.transaction() as db:
            _suspect(db, name, suspicion)

    def note_loaded(self, names: Collection[str]) -> None:
        """Keep which instances there are, for the case that the machine goes down."""
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
        """Note that an action is about to start; returns the attempt's id.

        `record` is the one that it is for; None: no record wants the instance.
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
        """Note how an action ended, and which instances there are now, if that is known."""
        with self.transaction() as db:
            db.execute(
                "UPDATE attempts SET ended_at = ?, outcome = ? WHERE id = ?",
                (at.isoformat(), outcome, attempt),
            )
            if loaded is not None:
                _note_loaded(db, loaded)

    def try_to_write(self) -> Problem | None:
        """See whether there is room again, where a write failed; why not, if there is none.

        Room for one more page would be gone at once: more than that is asked for.
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
        """All that is written inside is written at once, or nothing is.

        May be nested: what another error than the database's ends inside is undone alone.
        Raises `UnwritableError`.
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
        except sqlite3.Error:  # it has ended the whole transaction, or is about to
            raise
        except BaseException:
            self._db.execute("ROLLBACK TO item")
            self._db.execute("RELEASE item")
            raise
        self._db.execute("RELEASE item")

    def _unwritable(self, error: sqlite3.Error) -> Problem:
        advice = "see to it that there is room on its disk and that it may be written"
        if is_damage(error):
            advice = (
                "restart the daemon, which sets the damaged database aside and begins a new one"
            )
        elif _is_lock(error):
            advice = f"another program uses {NAME}; end it, and writing goes on by itself"
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

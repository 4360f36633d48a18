"""The store: writes survive a crash, and one daemon uses it at a time."""

import errno
import os
import resource
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.errors import Problem, Reason
from reconciler.core.records import (
    HTTP,
    Condition,
    EffectiveSettings,
    LoadSpec,
    Phase,
    Record,
    RequestedSettings,
    SettingWarning,
    Status,
)
from reconciler.core.suspicion import CrashRecord, InterruptedAttempt, LastRun
from reconciler.store import (
    KEPT_ATTEMPTS,
    SCHEMA_VERSION,
    Store,
    StoreError,
    UnwritableError,
    history,
)
from reconciler.store import store as store_module
from reconciler.store.broken import left_in
from reconciler.store.database import JOURNAL_BYTES, NAME

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
RECORD = Record(
    name="team/assistant",
    owner="directory:/m",
    spec=LoadSpec("a/b", RequestedSettings(context_length=5, flash_attention=False)),
    created_at=AT,
    generation=7,
    file="x.yaml",
    line=3,
    provisional=True,
    last_good=LoadSpec("a/b", RequestedSettings(num_experts=0, kv_cache_bits=8)),
)
STATUS = Status(
    observed_generation=6,
    conditions=(Condition("Ready", "True", "Loaded", "it answers", AT),),
    config=EffectiveSettings(5, 512, False, 0, False, 4),
    load_time_seconds=0.5,
    queued_seconds=0.1,
    load_phases={"weights": Phase(0.0, 0.25)},
    memory_bytes=10,
    warnings=(SettingWarning("flash_attention", True, "no kernel"),),
    checkpoint="/m/a/b",
    worker_pid=9,
    restarts=2,
)


def test_a_record_and_its_status_are_read_back_unchanged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, Status(), AT)
    store.put(RECORD, STATUS, AT)
    store.close()
    store = Store(tmp_path)
    assert store.load() == [(RECORD, STATUS)]
    store.close()


def test_a_record_from_before_a_setting_is_read_with_its_default(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, STATUS, AT)
    store.close()
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(
            "UPDATE records SET last_good = json_remove(last_good, '$.config.kv_cache_bits')"
        )
        db.execute("UPDATE status SET json = json_remove(json, '$.config.kv_cache_bits')")
    store = Store(tmp_path)
    ((record, status),) = store.load()
    store.close()
    assert RECORD.last_good is not None
    assert STATUS.config is not None
    before = replace(RECORD.last_good, config=RequestedSettings(num_experts=0))
    assert record == replace(RECORD, last_good=before)
    assert status == replace(STATUS, config=replace(STATUS.config, kv_cache_bits=None))


def test_a_removed_record_is_gone_with_its_status(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, STATUS, AT)
    store.remove(RECORD.name, AT)
    assert store.load() == []
    store.close()


def attempt(store: Store, name: str = RECORD.name, action: str = "Load") -> int:
    return store.begin_attempt(name, action, "it is not loaded", AT, replace(RECORD, name=name))


def test_the_next_start_finds_the_state_of_the_last_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.last_run() is None
    store.begin_run("boot-1", AT, {})
    done = attempt(store, "a")
    store.end_attempt(done, "succeeded", AT, ["a", "b"])
    attempt(store, "b", "Reload")
    store.close()
    store = Store(tmp_path)
    cut = InterruptedAttempt("b", RECORD.created_at, RECORD.generation, "Reload")
    assert store.last_run() == LastRun("boot-1", False, (cut,), frozenset({"a", "b"}))
    store.begin_run("boot-2", AT, {})
    assert store.last_run() == LastRun("boot-2", False)
    store.close()


def test_a_clean_stop_clears_suspicions_of_loaded_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.put(replace(RECORD, name=name), STATUS, AT)
    held = {"a": CrashRecord(7, 0, 1, AT), "b": CrashRecord(7, 1, 0, AT)}
    store.begin_run("boot-1", AT, held)
    assert store.suspicions() == held
    store.note_loaded(["a"])
    store.end_run(AT)
    assert store.suspicions() == {"b": held["b"]}
    assert store.last_run() == LastRun("boot-1", True)
    store.suspect("b", None)
    assert store.suspicions() == {}
    store.close()


def test_a_suspicion_is_removed_with_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, STATUS, AT)
    store.suspect(RECORD.name, CrashRecord(7, 2))
    store.remove(RECORD.name, AT)
    assert store.suspicions() == {}
    store.close()


def count(store: Store, table: str) -> int:
    (number,) = store._db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(number)


def test_attempts_are_bounded_per_record_and_in_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "KEPT_ALL_ATTEMPTS", 50)
    store = Store(tmp_path)
    for _ in range(KEPT_ATTEMPTS + 5):
        store.end_attempt(attempt(store, "a"), "succeeded", AT)
    assert count(store, "attempts") == KEPT_ATTEMPTS
    unfinished = attempt(store, "unfinished")
    for number in range(100):
        store.end_attempt(attempt(store, f"gone/{number}"), "succeeded", AT)
    # One more: an unfinished attempt is kept for the next start.
    assert count(store, "attempts") == 51
    last = store.last_run()
    assert last is None
    store.end_attempt(unfinished, "succeeded", AT)
    store.end_attempt(attempt(store, "a"), "succeeded", AT)
    assert count(store, "attempts") == 50
    store.close()


def test_the_files_stay_bounded_regardless_of_the_number_of_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed pages are reused, and the log is truncated at checkpoints."""
    monkeypatch.setattr(history, "KEPT_HISTORY", 100)
    monkeypatch.setattr(store_module, "KEPT_ALL_ATTEMPTS", 100)
    store = Store(tmp_path)
    store._db.execute("PRAGMA synchronous = OFF")  # the test measures size, not durability

    def write(count: int) -> int:
        for number in range(count):
            name = f"record/{number % 50}"
            record = replace(RECORD, name=name, generation=number)
            store.put(record, STATUS, AT)
            store.end_attempt(store.begin_attempt(name, "Load", "x" * 100, AT, record), "done", AT)
            if number % 7 == 0:
                store.remove(name, AT)
        return sum(f.stat().st_size for f in tmp_path.glob("reconciler.db*"))

    settled = write(1000)
    assert write(3000) <= 1.2 * settled
    assert (
        settled < 2 * JOURNAL_BYTES + 4_500_000
    )  # the log grows to 1000 pages between two checkpoints
    store.close()


def test_a_second_store_on_one_directory_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="another reconciler"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_newer_schema_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    Store(tmp_path).close()
    path = tmp_path / "reconciler.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer reconciler"):
        Store(tmp_path)
    assert path.read_bytes() == before


# -- damage ------------------------------------------------------------------------------------


def filled(directory: Path, names: int = 60) -> Path:
    """A database with `names` HTTP records of several pages, all in its main file."""
    store = Store(directory)
    for number in range(names):
        record = replace(RECORD, name=f"record/{number:03}", owner=HTTP, file=None, line=None)
        store.put(record, STATUS, AT)
    store.note_suspended("directory:/m", suspended=True)
    store.close()
    path = directory / NAME
    assert not path.with_name(f"{NAME}-wal").exists()
    return path


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def zeroed(path: Path) -> None:
    """Zero a page of the table of records, identified by its content."""
    data = path.read_bytes()
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    leaves = [
        number
        for number, page in enumerate(pages)
        if page[0] == 0x0D
        if b"num_experts" in page and b"Pending" not in page and b"conditions" not in page
    ]
    with path.open("r+b") as file:
        file.seek(leaves[1] * 4096)
        file.write(b"\0" * 4096)


@pytest.mark.parametrize("damage", [garbage, emptied, halved, zeroed])
def test_a_damaged_database_is_set_aside_and_a_new_one_created(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = filled(tmp_path)
    damage(path)
    before = path.read_bytes()
    store = Store(tmp_path)
    aside = store.quarantined
    assert aside is not None
    assert aside.path.read_bytes() == before
    assert str(aside.path) in aside.words
    assert left_in(tmp_path) == (aside.path,)
    store.put(RECORD, STATUS, AT)
    store.close()
    store = Store(tmp_path)
    assert store.quarantined is None
    assert (RECORD, STATUS) in store.load()
    store.close()


def test_readable_rows_of_a_damaged_database_are_kept(tmp_path: Path) -> None:
    zeroed(filled(tmp_path))
    store = Store(tmp_path)
    assert store.quarantined is not None
    saved = {record.name: status for record, status in store.load()}
    lost = store.quarantined.salvaged.lost
    assert 10 < len(saved) < 60
    assert all(status == STATUS for status in saved.values())
    assert sorted([*saved, *lost]) == [f"record/{number:03}" for number in range(60)]
    assert all(name in store.quarantined.words for name in lost)
    assert store.is_suspended("directory:/m")
    assert {g.name for g in store.history()} >= set(saved)
    store.close()


def test_rows_before_the_end_of_a_truncated_database_are_kept(tmp_path: Path) -> None:
    path = filled(tmp_path)
    os.truncate(path, path.stat().st_size - 4096)
    store = Store(tmp_path)
    assert store.quarantined is not None
    assert len(store.load()) > 10
    store.close()


def test_an_invalid_record_counts_as_damage(tmp_path: Path) -> None:
    path = filled(tmp_path, 3)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE records SET spec = '{' WHERE name = 'record/001'")
    db.close()
    store = Store(tmp_path)
    assert store.quarantined is not None
    assert store.quarantined.salvaged.lost == ("record/001",)
    assert [record.name for record, _ in store.load()] == ["record/000", "record/002"]
    store.close()


def test_two_damaged_databases_in_one_second_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, _tz: object = None) -> datetime:  # type: ignore[override]
            return AT

    monkeypatch.setattr(store_module, "datetime", Clock)
    for _ in range(2):
        garbage(tmp_path / NAME)
        Store(tmp_path).close()
    assert len(left_in(tmp_path)) == 2


def test_the_log_of_a_damaged_database_is_kept_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(replace(RECORD, owner=HTTP), STATUS, AT)
    with sqlite3.connect(tmp_path / NAME) as reader:
        reader.execute("SELECT * FROM records").fetchall()
        log = (tmp_path / f"{NAME}-wal").read_bytes()
        main = (tmp_path / NAME).read_bytes()
    reader.close()
    store.close()
    (tmp_path / NAME).write_bytes(main[:16] + b"\0" * 4080)
    (tmp_path / f"{NAME}-wal").write_bytes(log[:5000])
    store = Store(tmp_path)
    assert store.quarantined is not None
    path = store.quarantined.path
    assert path.with_name(f"{path.name}-wal").read_bytes() == log[:5000]
    store.close()


# -- failed writes -----------------------------------------------------------------------------


def test_a_failed_write_is_a_readable_error_and_is_reported_once(tmp_path: Path) -> None:
    problems: list[Problem | None] = []
    store = Store(tmp_path)
    store.on_problem = problems.append
    store.begin_run("boot", AT, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / f"{NAME}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(UnwritableError, match=str(tmp_path)) as raised:
                store.put(RECORD, STATUS, AT)
        assert raised.value.problem.reason is Reason.STATE_UNWRITABLE
        assert store.try_to_write() == store.problem is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.load() == []
    assert store.try_to_write() is None
    store.put(RECORD, STATUS, AT)
    assert [problem is not None for problem in problems] == [True, False]
    assert store.load() == [(RECORD, STATUS)]
    store.close()


def test_damage_found_while_writing_is_fixed_by_a_restart(tmp_path: Path) -> None:
    path = filled(tmp_path)
    store = Store(tmp_path)
    store._db.execute("PRAGMA cache_size = 0")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    def remove_all() -> None:
        for number in range(60):
            store.remove(f"record/{number:03}", AT)

    with pytest.raises(UnwritableError, match="restart the daemon"):
        remove_all()
    store.close()
    store = Store(tmp_path)
    assert store.quarantined is not None
    store.close()


def test_a_read_only_file_system_is_a_readable_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot write to state directory .*Read-only"):
        Store(tmp_path)


def test_a_database_that_cannot_be_opened_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(StoreError, match="cannot use state directory"):
        Store(tmp_path)
    assert (tmp_path / NAME).is_dir()

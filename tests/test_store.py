"""The store: what is written is there after a crash, and one daemon uses it at a time."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.records import (
    Asked,
    Condition,
    Config,
    LoadSpec,
    Phase,
    Record,
    SettingWarning,
    Status,
)
from reconciler.store import KEPT_ATTEMPTS, SCHEMA_VERSION, Store, StoreError

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
RECORD = Record(
    name="team/assistant",
    owner="directory:/m",
    spec=LoadSpec("a/b", Asked(context_length=5, flash_attention=False)),
    created_at=AT,
    generation=7,
    file="x.yaml",
    line=3,
    provisional=True,
    last_good=LoadSpec("a/b", Asked(num_experts=0)),
)
STATUS = Status(
    observed_generation=6,
    conditions=(Condition("Ready", "True", "Loaded", "it answers", AT),),
    config=Config(5, 512, False, 0, False),
    load_time_seconds=0.5,
    queued_seconds=0.1,
    load_phases={"weights": Phase(0.0, 0.25)},
    memory_bytes=10,
    warnings=(SettingWarning("flash_attention", True, "no kernel"),),
    checkpoint="/m/a/b",
    worker_pid=9,
    restarts=2,
)


def test_a_record_and_its_status_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, Status(), AT)
    store.put(RECORD, STATUS, AT)
    store.close()
    store = Store(tmp_path)
    assert store.load() == [(RECORD, STATUS)]
    store.close()


def test_a_removed_record_is_gone_with_its_status(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(RECORD, STATUS, AT)
    store.remove(RECORD.name, AT)
    assert store.load() == []
    store.close()


def test_an_attempt_without_an_end_is_found_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = store.begin_attempt("a", 1, "Load", "it is not loaded", AT)
    store.end_attempt(done, "succeeded", AT)
    store.begin_attempt("b", 1, "Load", "it is not loaded", AT)
    store.close()
    store = Store(tmp_path)
    assert store.take_unfinished_attempts(AT) == [("b", "Load")]
    assert store.take_unfinished_attempts(AT) == []
    store.close()


def test_attempts_are_bounded_per_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(KEPT_ATTEMPTS + 5):
        store.begin_attempt("a", 1, "Load", "", AT)
    store.begin_attempt("b", 1, "Load", "", AT)
    assert len(store.take_unfinished_attempts(AT)) == KEPT_ATTEMPTS + 1
    store.close()


def test_attempts_of_names_that_come_and_go_are_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.store.KEPT_ALL_ATTEMPTS", 3)
    store = Store(tmp_path)
    store.begin_attempt("never ended", 1, "Load", "", AT)
    for number in range(10):
        store.end_attempt(store.begin_attempt(f"a{number}", 1, "Load", "", AT), "succeeded", AT)
    store.close()
    with sqlite3.connect(tmp_path / "reconciler.db") as db:
        names = [name for (name,) in db.execute("SELECT name FROM attempts ORDER BY id")]
    db.close()
    assert names == ["never ended", "a7", "a8", "a9"]


def test_a_second_store_on_one_directory_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="another reconciler"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    path = tmp_path / "reconciler.db"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer reconciler"):
        Store(tmp_path)
    assert path.read_bytes() == before

"""Suspicion of records after crashes, and what clears it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import Reason
from reconciler.core.records import LoadSpec, Record
from reconciler.core.suspicion import (
    LIMIT,
    LOADS,
    CrashRecord,
    InterruptedAttempt,
    LastRun,
    after_start,
    after_success,
    problem,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORD = Record("a", "http", LoadSpec("p/m"), AT, generation=3)
CUT = InterruptedAttempt("a", AT, 3, "Load")

boots = st.sampled_from(["", "boot-1", "boot-2"])
actions = st.sampled_from([*sorted(LOADS), "Unload"])
attempts = st.builds(
    InterruptedAttempt,
    st.sampled_from(["a", "b"]),
    st.sampled_from([AT, AT.replace(year=2025)]),
    st.integers(2, 3),
    actions,
)
suspicions = st.builds(
    CrashRecord, st.integers(2, 3), st.integers(0, 3), st.integers(0, 3), st.just(AT)
)
runs = st.builds(
    LastRun,
    boots,
    st.booleans(),
    st.lists(attempts, max_size=3).map(tuple),
    st.frozensets(st.sampled_from(["a", "b"])),
)


def judged(last: LastRun | None, boot_id: str = "boot-1", known: CrashRecord | None = None) -> int:
    held = {"a": known} if known is not None else {}
    found = after_start([RECORD], held, last, boot_id, AT).get("a")
    return found.crashes if found is not None else 0


@given(runs | st.none(), boots, suspicions | st.none())
def test_a_start_counts_at_most_one_crash_and_forgets_other_generations(
    last: LastRun | None, boot_id: str, known: CrashRecord | None
) -> None:
    before = known.crashes if known is not None and known.generation == 3 else 0
    assert judged(last, boot_id, known) - before in (0, 1)


@given(runs, boots)
def test_nothing_counts_after_a_clean_stop(last: LastRun, boot_id: str) -> None:
    assert judged(replace(last, clean=True), boot_id) == 0


@given(runs, boots)
def test_only_loaded_or_loading_records_count(last: LastRun, boot_id: str) -> None:
    loading = any(
        (c.name, c.created_at, c.generation) == ("a", AT, 3) and c.action in LOADS
        for c in last.interrupted
    )
    if not loading and "a" not in last.loaded:
        assert judged(last, boot_id) == 0
    if loading and not last.clean:
        assert judged(last, boot_id) == 1


@pytest.mark.parametrize(
    ("last", "counted"),
    [
        (None, (0, 0)),
        (LastRun("boot-1", clean=False), (0, 0)),
        (LastRun("boot-1", clean=False, interrupted=(CUT,)), (1, 0)),
        (LastRun("boot-0", clean=False, interrupted=(CUT,)), (0, 1)),
        # A killed daemon is no evidence against loaded records.
        (LastRun("boot-1", clean=False, loaded=frozenset("a")), (0, 0)),
        (LastRun("boot-0", clean=False, loaded=frozenset("a")), (0, 1)),
        (LastRun("boot-0", clean=False, interrupted=(CUT,), loaded=frozenset("a")), (0, 1)),
        (LastRun("boot-0", clean=True, loaded=frozenset("a")), (0, 0)),
        (LastRun("", clean=False, loaded=frozenset("a")), (0, 0)),
        (LastRun("boot-1", clean=False, interrupted=(replace(CUT, action="Unload"),)), (0, 0)),
        (LastRun("boot-1", clean=False, interrupted=(replace(CUT, generation=2),)), (0, 0)),
    ],
)
def test_crashes_that_count(last: LastRun | None, counted: tuple[int, int]) -> None:
    found = after_start([RECORD], {}, last, "boot-1", AT).get("a", CrashRecord(3))
    assert (found.daemon_crashes, found.machine_crashes) == counted


def test_a_recreated_record_is_not_suspected() -> None:
    recreated = replace(RECORD, created_at=AT.replace(year=2027))
    last = LastRun("boot-1", clean=False, interrupted=(CUT,))
    assert after_start([recreated], {}, last, "boot-1", AT) == {}


@given(suspicions)
def test_a_success_clears_crashes_of_the_daemon_alone(suspicion: CrashRecord) -> None:
    assert after_success(suspicion) == (suspicion if suspicion.machine_crashes else None)


@given(suspicions)
def test_a_record_is_held_from_the_second_crash_of_its_generation_on(
    suspicion: CrashRecord,
) -> None:
    found = problem(RECORD, suspicion)
    assert (found is not None) == (suspicion.generation == 3 and suspicion.crashes >= LIMIT)
    if found is not None:
        assert found.reason is Reason.SUSPECTED_HOST_CRASH
        assert found.permanent


def test_the_message_has_the_cause_the_count_and_the_fix() -> None:
    found = problem(RECORD, CrashRecord(3, 1, 2, AT))
    assert found is not None
    assert found.message == (
        "the machine crashed twice while it was loaded or being loaded and the daemon crashed "
        "once while loading it, last before 2026-01-02 03:04:05 UTC; to load it again, change "
        "its spec or run `reconciler clear a`"
    )

"""Conditions are derived, and keep their transition times."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.conditions import derive, pending
from reconciler.core.errors import DEATHS, Problem, Reason
from reconciler.core.plan import Action, Kind
from reconciler.core.records import (
    HTTP,
    EffectiveSettings,
    Instance,
    LoadSpec,
    Record,
    RequestedSettings,
    Status,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(seconds=5)
RECORD = Record("a", HTTP, LoadSpec("m"), AT, generation=3)
CONFIG = EffectiveSettings(1, 2, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=True)
LOADED = Instance("a", LoadSpec("m"), "/m", CONFIG, 10, 5, worker_pid=7)
OLD = replace(LOADED, spec=LoadSpec("m", RequestedSettings(context_length=5)))
SUSPENDED = Action(Kind.HOLD, "a", "x", reason=Reason.SUSPENDED)
HOLD = Action(Kind.HOLD, "a", "no m", problem=Problem(Reason.MODEL_NOT_FOUND, "no m"))


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


@pytest.mark.parametrize(
    ("instance", "action", "ready", "progressing", "stalled", "reason"),
    [
        (LOADED, None, "True", "False", "False", "Loaded"),
        (None, None, "False", "True", "False", "Pending"),
        (None, Action(Kind.LOAD, "a", "x"), "False", "True", "False", "Loading"),
        (OLD, Action(Kind.RECONFIGURE, "a", "x"), "False", "True", "False", "Reconfiguring"),
        (
            None,
            Action(Kind.WAIT, "a", "x", reason=Reason.QUEUED),
            "False",
            "True",
            "False",
            "Queued",
        ),
        (None, HOLD, "False", "False", "True", "ModelNotFound"),
        # Suspended on purpose: nothing is wrong, and nothing is under way.
        (None, SUSPENDED, "False", "False", "False", "Suspended"),
        # The new session answers, but the action on it has not ended.
        (LOADED, Action(Kind.RECONFIGURE, "a", "x"), "False", "True", "False", "Reconfiguring"),
    ],
)
def test_conditions_of_each_state_of_a_record(
    instance: Instance | None,
    action: Action | None,
    ready: str,
    progressing: str,
    stalled: str,
    reason: str,
) -> None:
    status = derive(RECORD, Status(), instance, action, AT)
    assert conditions(status) == {
        "Ready": (ready, reason),
        "Progressing": (progressing, reason),
        "Stalled": (stalled, reason),
    }


def test_a_failed_spec_is_rolled_back_while_an_earlier_one_serves() -> None:
    status = derive(RECORD, Status(), OLD, HOLD, AT)
    assert conditions(status) == {
        "Ready": ("False", "RolledBack"),
        "Progressing": ("False", "ModelNotFound"),
        "Stalled": ("True", "ModelNotFound"),
    }
    assert status.config == CONFIG


def test_a_wait_for_memory_is_not_a_failure() -> None:
    short = Problem(Reason.INSUFFICIENT_MEMORY, "short", permanent=False)
    wait = Action(Kind.WAIT, "a", "short", reason=Reason.WAITING_FOR_MEMORY, problem=short)
    assert conditions(derive(RECORD, Status(), OLD, wait, AT))["Ready"] == (
        "False",
        "WaitingForMemory",
    )


@pytest.mark.parametrize("reason", sorted(DEATHS))
def test_the_death_of_a_worker_is_the_reason_of_ready(reason: Reason) -> None:
    ended = Problem(reason, "it ended", permanent=False)
    wait = Action(Kind.WAIT, "a", "attempt 1 failed", reason=Reason.BACKING_OFF, problem=ended)
    assert conditions(derive(RECORD, Status(), None, wait, AT)) == {
        "Ready": ("False", reason.value),
        "Progressing": ("True", "BackingOff"),
        "Stalled": ("False", "BackingOff"),
    }
    # If an earlier spec serves, clients need to know that.
    assert conditions(derive(RECORD, Status(), OLD, wait, AT))["Ready"] == ("False", "RolledBack")


def test_any_other_transient_failure_backs_off() -> None:
    failed = Problem(Reason.LOAD_FAILED, "no", permanent=False)
    wait = Action(Kind.WAIT, "a", "attempt 1 failed", reason=Reason.BACKING_OFF, problem=failed)
    assert conditions(derive(RECORD, Status(), None, wait, AT))["Ready"] == ("False", "BackingOff")


def test_the_observed_generation_is_the_newest_that_was_loaded() -> None:
    loaded = derive(RECORD, Status(), LOADED, None, AT)
    assert loaded.observed_generation == 3
    changed = replace(RECORD, generation=4, spec=LoadSpec("m", RequestedSettings(num_experts=1)))
    assert derive(changed, loaded, LOADED, HOLD, AT).observed_generation == 3


def test_a_transition_keeps_its_time_until_status_or_reason_changes() -> None:
    first = derive(RECORD, Status(), None, HOLD, AT)
    reworded = derive(RECORD, first, None, replace(HOLD, message="no m at all"), LATER)
    assert {c.last_transition_time for c in reworded.conditions} == {AT}
    assert {c.message for c in reworded.conditions} == {"no m at all"}
    loaded = derive(RECORD, first, LOADED, None, LATER)
    assert {c.last_transition_time for c in loaded.conditions} == {LATER}


def test_without_an_instance_no_settings_are_reported() -> None:
    loaded = replace(derive(RECORD, Status(), LOADED, None, AT), memory_bytes=9)
    assert (loaded.config, loaded.worker_pid) == (CONFIG, 7)
    gone = derive(RECORD, loaded, None, None, AT)
    assert (gone.config, gone.worker_pid, gone.memory_bytes) == (None, None, None)


def test_the_generation_that_still_serves_is_reported() -> None:
    status = derive(RECORD, Status(), OLD, HOLD, AT)
    assert "previous settings are still in force" in status.conditions[0].message
    assert status.config == CONFIG


def test_a_new_spec_is_not_ready_before_it_is_processed() -> None:
    loaded = derive(RECORD, Status(), LOADED, None, AT)
    status = pending(loaded, LATER)
    assert conditions(status)["Ready"] == ("False", "Pending")
    assert status.config == CONFIG

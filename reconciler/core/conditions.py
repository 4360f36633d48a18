"""Record + instance + next action -> conditions. Derived anew at each pass, never patched.

A condition keeps its time of transition until its status or its reason changes.
"""

from dataclasses import replace
from datetime import datetime

from reconciler.core.plan import Action, Kind
from reconciler.core.records import (
    Condition,
    ConditionStatus,
    ConditionType,
    Instance,
    Record,
    Status,
)

PENDING = "the wish is new; it has not been looked at yet"


def derive(
    record: Record, status: Status, instance: Instance | None, action: Action | None, at: datetime
) -> Status:
    """The status of a record as of now.

    `action` is what is being done about the record, or what the plan says of it; None where
    record and instance agree.
    """
    ready = instance is not None and instance.spec == record.spec and action is None
    # All three carry one reason and message: why the record is where it is.
    reason, message = _why(record, instance, action, ready=ready)
    resting = action is not None and action.kind is Kind.HOLD
    stalled = resting and action is not None and action.problem is not None
    progressing = not ready and not resting
    return replace(
        status,
        conditions=_conditions(
            status, reason, message, at, ready=ready, progressing=progressing, stalled=stalled
        ),
        observed_generation=record.generation if ready else status.observed_generation,
        config=instance.config if instance is not None else None,
        worker_pid=instance.worker_pid if instance is not None else None,
        memory_bytes=status.memory_bytes if instance is not None else None,
    )


def pending(status: Status, at: datetime) -> Status:
    """The status of a record whose wish has just changed: true before anybody looked at it.

    What is loaded, if anything, is still in force; it is not what is wanted.
    """
    conditions = _conditions(
        status, "Pending", PENDING, at, ready=False, progressing=True, stalled=False
    )
    return replace(status, conditions=conditions)


def _why(
    record: Record, instance: Instance | None, action: Action | None, *, ready: bool
) -> tuple[str, str]:
    """Reason and message of the state."""
    if ready:
        return "Loaded", f"generation {record.generation} is loaded and answers"
    if action is None:
        return "Pending", PENDING
    serving = "; the previous settings are still in force" if instance is not None else ""
    message = action.reason + serving
    if action.why is not None:
        return action.why.value, message
    if action.problem is not None:
        return action.problem.cause.value, message
    return _UNDER_WAY[action.kind], message


_UNDER_WAY = {
    Kind.LOAD: "Loading",
    Kind.ATTACH: "Attaching",
    Kind.RECONFIGURE: "Reconfiguring",
    Kind.RELOAD: "Reloading",
    Kind.UNLOAD: "Unloading",
}


def _conditions(
    status: Status,
    reason: str,
    message: str,
    at: datetime,
    *,
    ready: bool,
    progressing: bool,
    stalled: bool,
) -> tuple[Condition, ...]:
    wanted: tuple[tuple[ConditionType, bool], ...] = (
        ("Ready", ready),
        ("Progressing", progressing),
        ("Stalled", stalled),
    )
    return tuple(
        _keep_time(status, type_, "True" if true else "False", reason, message, at)
        for type_, true in wanted
    )


def _keep_time(
    status: Status,
    type_: ConditionType,
    value: ConditionStatus,
    reason: str,
    message: str,
    at: datetime,
) -> Condition:
    before = status.condition(type_)
    same = before is not None and (before.status, before.reason) == (value, reason)
    time = before.last_transition_time if before is not None and same else at
    return Condition(type_, value, reason, message, time)

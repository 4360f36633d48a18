"""Record + instance + next action -> conditions. Derived in full at each pass, never patched.

A condition keeps its transition time until its status or its reason changes.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from reconciler.core.errors import DEATHS, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.plan import Action, Kind
from reconciler.core.records import (
    Condition,
    ConditionStatus,
    ConditionType,
    Instance,
    LoadReport,
    Record,
    SettingWarning,
    Status,
)

PENDING = "the spec is new and has not been processed yet"


def derive(
    record: Record,
    status: Status,
    instance: Instance | None,
    action: Action | None,
    at: datetime,
    on_disk: Checkpoint | None = None,
) -> Status:
    """The current status of a record.

    `on_disk` is its checkpoint as found on disk, if known. `action` is the action under way or
    planned for the record; None if record and instance agree.
    """
    met = instance is not None and instance.spec.loads_like(record.spec)
    ready = met and action is None
    reason, message = _why(record, action, ready=ready, serving=instance is not None and not met)
    failed = action is not None and action.problem is not None
    waits_for_memory = action is not None and action.reason is Reason.WAITING_FOR_MEMORY
    rolled_back = instance is not None and not met and failed and not waits_for_memory
    resting = action is not None and action.kind is Kind.HOLD
    stalled = resting and action is not None and action.problem is not None
    progressing = not ready and not resting
    return replace(
        status,
        conditions=_conditions(
            status,
            "RolledBack" if rolled_back else _death(action) or reason,
            reason,
            message,
            at,
            ready=ready,
            progressing=progressing,
            stalled=stalled,
        ),
        observed_generation=record.generation if ready else status.observed_generation,
        config=instance.config if instance is not None else None,
        defaults=instance.defaults if instance is not None else (),
        checkpoint=instance.checkpoint if instance is not None else status.checkpoint,
        adapter=instance.adapter if instance is not None else None,
        draft_model=instance.draft_model if instance is not None else None,
        revision=instance.revision if instance is not None else None,
        revision_on_disk=on_disk.revision if on_disk is not None else None,
        worker_pid=instance.worker_pid if instance is not None else None,
        type=instance.type if instance is not None else None,
        warnings=_warnings(status, instance, on_disk),
        **_report(instance.report if instance is not None else None),
    )


def _report(report: LoadReport | None) -> dict[str, Any]:
    """Status fields about the load; its times are kept until the next load."""
    if report is None:
        return {"memory_bytes": None}
    return {
        "load_time_seconds": report.load_time_seconds,
        "load_phases": report.phases,
        "memory_bytes": report.memory_bytes,
    }


def _warnings(
    status: Status, instance: Instance | None, on_disk: Checkpoint | None
) -> tuple[SettingWarning, ...]:
    """Warnings of the load, plus one if the files on disk are no longer the loaded ones."""
    if instance is None or instance.report is None:
        return status.warnings
    warnings = instance.report.warnings
    if on_disk is None or instance.revision == on_disk.revision:
        return warnings
    reason = (
        f"revision {on_disk.revision} is on disk, {instance.revision} is loaded; "
        "it is not reloaded automatically: unload and load it, or restart the daemon"
    )
    return (*warnings, SettingWarning("model", instance.spec.model, reason))


def pending(status: Status, at: datetime) -> Status:
    """The status of a record whose spec has just changed, before the next pass.

    The loaded settings, if any, are still in force, but are no longer the desired ones.
    """
    conditions = _conditions(
        status, "Pending", "Pending", PENDING, at, ready=False, progressing=True, stalled=False
    )
    return replace(status, conditions=conditions)


def broken(status: Status, problem: Problem, at: datetime) -> Status:
    """The status of a record that cannot be reported because of an internal error."""
    reason, message = problem.reason.value, problem.message
    conditions = _conditions(
        status, reason, reason, message, at, ready=False, progressing=True, stalled=False
    )
    return replace(status, conditions=conditions)


def _death(action: Action | None) -> str | None:
    """Reason of the worker's death, while the record backs off because of it."""
    if action is None or action.reason is not Reason.BACKING_OFF or action.problem is None:
        return None
    return action.problem.reason.value if action.problem.reason in DEATHS else None


def _why(record: Record, action: Action | None, *, ready: bool, serving: bool) -> tuple[str, str]:
    """Reason and message of the conditions."""
    if ready:
        return "Loaded", f"generation {record.generation} is loaded and answers"
    if action is None:
        return "Pending", PENDING
    message = action.message
    if serving:
        message += "; the previous settings are still in force"
    if action.spec is not None and not action.spec.loads_like(record.spec):
        return "RollingBack", message
    if action.reason is not None:
        return action.reason.value, message
    if action.problem is not None:
        return action.problem.reason.value, message
    return _UNDER_WAY[action.kind], message


_UNDER_WAY = {
    Kind.LOAD: "Loading",
    Kind.ATTACH: "Attaching",
    Kind.RECONFIGURE: "Reconfiguring",
    Kind.RELOAD: "Reloading",
    Kind.UNLOAD: "Unloading",
}

REASONS = (
    {"Loaded", "Pending", "RolledBack", "RollingBack"}
    | set(_UNDER_WAY.values())
    | {reason.value for reason in Reason}
)
"""Every reason that a condition can have."""


def _conditions(
    status: Status,
    ready_reason: str,
    reason: str,
    message: str,
    at: datetime,
    *,
    ready: bool,
    progressing: bool,
    stalled: bool,
) -> tuple[Condition, ...]:
    wanted: tuple[tuple[ConditionType, bool, str], ...] = (
        ("Ready", ready, ready_reason),
        ("Progressing", progressing, reason),
        ("Stalled", stalled, reason),
    )
    return tuple(
        _keep_time(status, type_, "True" if true else "False", why, message, at)
        for type_, true, why in wanted
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

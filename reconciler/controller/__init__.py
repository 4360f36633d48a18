"""Makes instances agree with records: observe, plan, report, commit, act.

Nothing here decides: `absorb` and `desired` say what records there are, `plan` what to do about
them, and `conditions` what to report. The controller calls them with what it observes, carries out
what they say, and writes down the result. No state that gates a change is read before an `await`
and used after it.

    state.py       one record and every volatile fact about it
    registry.py    the records, on disk first and then in memory
    reconciler.py  the pass
    machine.py     the facts of the machine
    planning.py    the plan, for the pass, for admission and for dry runs
    report.py      what a pass found -> statuses, history, answers
    actions.py     actions under way
    outcomes.py    how they ended -> states of records
    attempts.py    what the next start must know
    lookups.py     what files of models say, looked up beside the passes
    batches.py     questions that are answered together
    clock.py       time, handed in
    events.py      what happened, for whoever listens
    source_sync.py sources -> registry
    routing.py     which instance answers a request
    leases.py      memory that nobody reserves, leased to instances that answer
    resolver.py    model files -> facts
    controller.py  what the api asks
    mutations.py   loads, puts, unloads that callers ask for
    dry_run.py     what would happen
"""

from reconciler.controller.controller import Controller
from reconciler.controller.dry_run import Change, DryRun, Estimate, PlanRequest
from reconciler.controller.events import Events
from reconciler.controller.routing import Availability
from reconciler.controller.source_sync import Source, SourceError, SourceSync, SourceView
from reconciler.controller.state import RecordView

__all__ = [
    "Availability",
    "Change",
    "Controller",
    "DryRun",
    "Estimate",
    "Events",
    "PlanRequest",
    "RecordView",
    "Source",
    "SourceError",
    "SourceSync",
    "SourceView",
]

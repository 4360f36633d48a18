"""Reconciles loaded instances with the records: observe, plan, report, commit, act.

Decisions are made in the core, by pure functions: `absorb` and `desired` compute the records,
`plan` the actions and `conditions` the statuses. The controller passes observations to them,
carries out their results and persists them. State that gates a change is never read before an
`await` and used after it.

    state.py       one record with all its volatile state
    registry.py    all records; written to disk first, then to memory
    reconciler.py  the reconcile pass
    machine.py     facts about the machine
    planning.py    the plan, for passes, admission and dry runs
    report.py      results of a pass -> statuses, history, replies to waiters
    actions.py     running actions
    outcomes.py    ended actions -> record states
    attempts.py    log of attempts, read by the next start
    lookups.py     cached facts from model files, refreshed outside passes
    batches.py     concurrent questions answered in one batch
    clock.py       injectable time
    events.py      event stream for listeners
    source_sync.py sources -> registry
    routing.py     choice of the instance that serves a request
    leases.py      unreserved memory, leased to instances that serve requests
    resolver.py    model files -> facts
    controller.py  the API's entry points
    mutations.py   loads, puts, unloads and clears requested by callers
    dry_run.py     previews and memory estimates
    pulling.py     downloads requested by callers
    removal.py     removal of downloaded models
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

"""The loop: observe, plan, act, report.

Nothing here decides: `desired` says what records there are, `plan` what to do about them, and
`conditions` what to report. The controller calls them with what it observes, carries out what
they say, and writes down the result. No state that gates a change is read before an `await` and
used after it.

    book.py        the records, on disk first and then in memory
    clock.py       time, handed in
    events.py      what happened, for whoever listens
    feed.py        sources -> book
    leases.py      memory that nobody reserves, leased to instances that answer
    inspector.py   model files -> facts
    journal.py     what the next start must know
    loop.py        book + engine -> actions -> book
    report.py      book + actions -> statuses, history, answers
    controller.py  what the api asks
    forecast.py    what would happen
"""

from reconciler.controller.controller import Controller
from reconciler.controller.events import Events
from reconciler.controller.feed import Complaint, Feed, Source, SourceView
from reconciler.controller.forecast import Change, Estimate, Forecast, Wishes
from reconciler.controller.state import RecordView as Answer

__all__ = [
    "Answer",
    "Change",
    "Complaint",
    "Controller",
    "Estimate",
    "Events",
    "Feed",
    "Forecast",
    "Source",
    "SourceView",
    "Wishes",
]

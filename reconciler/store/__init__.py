"""Persistent state of the daemon, in one SQLite database under the state directory.

rows.py      records, statuses and generations as rows, and back
database.py  the database file: schema, opening, integrity check
history.py   generations and their outcomes
broken.py    quarantine and salvage of a damaged database
store.py     reads and writes of the controller
"""

from reconciler.store.broken import Quarantined, left_in
from reconciler.store.database import SCHEMA_VERSION, StoreError
from reconciler.store.history import KEPT_GENERATIONS
from reconciler.store.store import KEPT_ATTEMPTS, Store, UnwritableError

__all__ = [
    "KEPT_ATTEMPTS",
    "KEPT_GENERATIONS",
    "SCHEMA_VERSION",
    "Quarantined",
    "Store",
    "StoreError",
    "UnwritableError",
    "left_in",
]

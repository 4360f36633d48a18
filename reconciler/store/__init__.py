"""What survives the daemon, in one SQLite database under the state directory.

rows.py      records, statuses and generations as rows, and back
database.py  the schema, and how the file is opened
history.py   generations, and what became of them
broken.py    a damaged file: set aside, and what of it can be read
store.py     what the controller writes and reads
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

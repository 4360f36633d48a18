"""Who holds what."""

import pytest

from reconciler.core.facts import Checkpoint
from reconciler.core.memory import (
    DEFAULT_CONTEXT_COUNTED,
    Ledger,
    largest_context,
    readable_bytes,
    session_bytes,
)
from reconciler.core.records import Asked

CHECKPOINT = Checkpoint("/m", "r", "llama", 100, kv_bytes_per_token=2)


def test_weights_are_counted_once_per_checkpoint() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("b", "/m", 100, 20)
    ledger.hold("c", "/n", 50, 5)
    assert ledger.used == 100 + 10 + 20 + 50 + 5
    assert ledger.holders() == {"a": 110, "b": 20, "c": 55}


def test_weights_go_with_the_last_that_holds_them() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("b", "/m", 100, 20)
    ledger.release("a")
    assert ledger.used == 120
    ledger.release("b")
    ledger.release("b")
    assert ledger.used == 0


def test_what_is_missing_counts_weights_only_where_they_are_not_held() -> None:
    ledger = Ledger(150)
    ledger.hold("a", "/m", 100, 10)
    assert ledger.missing("/m", 100, 40) == 0
    assert ledger.missing("/m", 100, 41) == 1
    assert ledger.missing("/n", 20, 40) == 20


def test_holding_again_replaces() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("a", "/n", 50, 5)
    assert ledger.used == 55
    assert ledger.without("a").used == 0
    assert ledger.used == 55


def test_an_asked_for_context_is_reserved_a_default_one_is_a_limit() -> None:
    assert session_bytes(CHECKPOINT, Asked(context_length=50_000), 50_000) == 100_000
    assert session_bytes(CHECKPOINT, Asked(), 50_000) == DEFAULT_CONTEXT_COUNTED * 2
    assert session_bytes(CHECKPOINT, Asked(), 10) == 20


def test_the_largest_context_is_what_the_weights_leave() -> None:
    assert largest_context(CHECKPOINT, 120) == 10
    assert largest_context(CHECKPOINT, 100) == 0
    assert largest_context(CHECKPOINT, 50) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(5, "5 B"), (1500, "1.5 kB"), (20_000_000, "20.0 MB"), (3_180_000_000, "3.2 GB")],
)
def test_bytes_are_told_as_people_read_them(size: int, text: str) -> None:
    assert readable_bytes(size) == text

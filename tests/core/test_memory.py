"""The memory ledger."""

import pytest

from reconciler.core.memory import Ledger, readable_bytes


def test_shared_memory_is_counted_once_per_checkpoint() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("b", "/m", 100, 20)
    ledger.hold("c", "/n", 50, 5)
    assert ledger.used == 100 + 10 + 20 + 50 + 5
    assert ledger.holders() == {"a": 110, "b": 20, "c": 55}


def test_shared_memory_is_released_with_its_last_holder() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("b", "/m", 100, 20)
    ledger.release("a")
    assert ledger.used == 120
    ledger.release("b")
    ledger.release("b")
    assert ledger.used == 0


def test_missing_bytes_include_shared_ones_only_if_they_are_not_held() -> None:
    ledger = Ledger(150)
    ledger.hold("a", "/m", 100, 10)
    assert ledger.missing("/m", 100, 40) == 0
    assert ledger.missing("/m", 100, 41) == 1
    assert ledger.missing("/n", 20, 40) == 20


def test_a_second_hold_replaces_the_first() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("a", "/n", 50, 5)
    assert ledger.used == 55
    assert ledger.without("a").used == 0
    assert ledger.used == 55


def test_lazy_weights_count_before_they_are_resident() -> None:
    ledger = Ledger(1000, live={"/m": 30})
    ledger.hold("a", "/m", 100, 10)
    assert ledger.used == 110


def test_a_worker_above_its_reservation_counts_as_measured() -> None:
    ledger = Ledger(1000, live={"/m": 300, "/gone": 500})
    ledger.hold("a", "/m", 100, 10)
    ledger.hold("b", "/m", 100, 20)
    ledger.hold("c", "/n", 50, 5)
    assert ledger.used == 300 + 55
    assert ledger.holders() == {"a": 280, "b": 20, "c": 55}
    assert ledger.without("a", "b").used == 55


@pytest.mark.parametrize(
    ("size", "text"),
    [(5, "5 B"), (1500, "1.5 kB"), (20_000_000, "20.0 MB"), (3_180_000_000, "3.2 GB")],
)
def test_bytes_are_formatted_for_messages(size: int, text: str) -> None:
    assert readable_bytes(size) == text

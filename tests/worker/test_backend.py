"""Test facts about machines other than this one, by injection."""

import psutil
import pytest

from reconciler.worker import backend
from reconciler.worker.backend import machine, memory_budget

GIB = 2**30


@pytest.mark.parametrize(
    ("info", "physical", "cgroup", "expected"),
    [
        # Metal reports a recommended limit below the machine's memory.
        (
            {"max_recommended_working_set_size": 48 * GIB},
            64 * GIB,
            None,
            48 * GIB,
        ),
        # A discrete GPU has memory of its own.
        ({"total_memory": 139 * GIB}, 128 * GIB, None, 139 * GIB),
        # The CPU backend reports no memory: use the machine's, or the cgroup's if that is less.
        # The daemon and its spare worker use some of that too.
        ({"device_name": "cpu"}, 24 * GIB, None, 23 * GIB),
        ({"device_name": "cpu"}, 24 * GIB, 8 * GIB, 7 * GIB),
        ({"device_name": "cpu"}, 24 * GIB, 64 * GIB, 23 * GIB),
        ({"device_name": "cpu"}, GIB // 2, None, 0),
    ],
)
def test_the_memory_budget_follows_the_reported_limits(
    info: dict[str, object], physical: int, cgroup: int | None, expected: int
) -> None:
    assert memory_budget(info, physical, cgroup, GIB) == expected


def test_this_machine_is_described() -> None:
    facts = machine()
    assert facts.device in ("cpu", "gpu")
    assert facts.memory_budget > GIB / 4
    assert facts.mlx_version


def test_without_a_gpu_memory_is_reserved_for_the_daemon_and_a_spare_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlx.core.device_info", lambda: {"device_name": "cpu"})
    monkeypatch.setattr(backend, "_cgroup_limit", lambda: None)
    facts = machine()
    parent = psutil.Process().parent()
    daemon = parent.memory_info().rss if parent is not None else 0
    left = psutil.virtual_memory().total - facts.memory_budget
    assert left == pytest.approx(facts.process_bytes + daemon, rel=0.1)

"""Facts about machines that this test does not run on, injected."""

import pytest

from reconciler.worker.backend import machine, memory_budget

GIB = 2**30


@pytest.mark.parametrize(
    ("info", "physical", "cgroup", "expected"),
    [
        # Metal says what it recommends; that is less than the machine has.
        (
            {"max_recommended_working_set_size": 48 * GIB},
            64 * GIB,
            None,
            48 * GIB,
        ),
        # A discrete GPU has memory of its own.
        ({"total_memory": 139 * GIB}, 128 * GIB, None, 139 * GIB),
        # The CPU backend names no memory: the machine's, or the cgroup's where that is less.
        ({"device_name": "cpu"}, 24 * GIB, None, 24 * GIB),
        ({"device_name": "cpu"}, 24 * GIB, 8 * GIB, 8 * GIB),
        ({"device_name": "cpu"}, 24 * GIB, 64 * GIB, 24 * GIB),
    ],
)
def test_the_memory_budget_is_asked_not_guessed(
    info: dict[str, object], physical: int, cgroup: int | None, expected: int
) -> None:
    assert memory_budget(info, physical, cgroup) == expected


def test_this_machine_is_described() -> None:
    facts = machine()
    assert facts.device in ("cpu", "gpu")
    assert facts.memory_budget > GIB / 4
    assert facts.mlx_version

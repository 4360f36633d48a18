"""Limits on connections and file descriptors."""

import json
import resource
import subprocess
import sys

import pytest

from reconciler.api.connections import (
    LEAST_CONNECTIONS,
    MOST_DESCRIPTORS,
    RESERVE,
    Connections,
    connections_within,
)


class One:
    """A connection that records if it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def force_close(self) -> None:
        self.closed = True


def test_the_longest_idle_connection_is_closed_for_a_new_one() -> None:
    connections = Connections(3)
    first, second, third, fourth = (One() for _ in range(4))
    assert all(connections.admit(one) for one in (first, second, third))
    connections.begin(first)
    connections.end(first)  # now idle for a shorter time than the second
    assert connections.admit(fourth)
    assert [one.closed for one in (first, second, third, fourth)] == [False, True, False, False]
    assert len(connections) == 3


def test_connections_with_a_request_stay_open() -> None:
    connections = Connections(2)
    first, second, third = (One() for _ in range(3))
    for one in (first, second):
        assert connections.admit(one)
        connections.begin(one)
    assert not connections.admit(third)
    assert [one.closed for one in (first, second)] == [False, False]
    connections.forget(first)
    assert connections.admit(third)


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 20_000, 2**20, 2**63])
def test_descriptors_are_reserved_for_workers_and_files(descriptors: int) -> None:
    connections = connections_within(descriptors)
    within = min(descriptors, MOST_DESCRIPTORS)
    assert connections >= LEAST_CONNECTIONS
    assert connections == LEAST_CONNECTIONS or 2 * connections + RESERVE <= within


RAISED = """\
import json, resource
from reconciler.api.connections import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
found = raise_limit()
print(json.dumps([found, *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""

IMPORTED = """\
import json, resource
from reconciler.worker import descriptors, quick_imports
quick_imports.install()
resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))
descriptors.keep()
import mlx_lm.utils
print(json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)))
"""


def run(program: str) -> list[int]:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: list[int] = json.loads(done.stdout)
    return found


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = 512 if hard == resource.RLIM_INFINITY else min(hard, 512)
    assert run(RAISED.format(hard=lower)) == [lower, lower, lower]


def test_a_worker_keeps_the_limit_that_mlx_lm_would_set() -> None:
    assert run(IMPORTED.format(hard=1000)) == [300, 1000]

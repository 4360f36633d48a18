"""Clients shared by the tests of a run."""

import os

import pytest

from tests.clients.harness import Clients


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Clients(run / "clients")

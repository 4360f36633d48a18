"""A repository to follow."""

from pathlib import Path

import pytest

from tests.repositories import Origin


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")

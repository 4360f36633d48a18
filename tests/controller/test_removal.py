"""Removal of models from a hanging cache."""

import threading
from pathlib import Path
from typing import Any

import pytest

from reconciler.controller import removal
from reconciler.controller.removal import Removal
from reconciler.core.errors import LoadError, Reason


async def test_a_hanging_cache_is_an_error_and_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    unused: Any = None
    monkeypatch.setattr(removal, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("reconciler.models.removal.folder_of", lambda *_: released.wait())
    removing = Removal(unused, unused, unused, unused, Path("/cache"))
    try:
        with pytest.raises(LoadError) as raised:
            await removing.remove("maker/model", None)
    finally:
        released.set()
    assert raised.value.problem.reason is Reason.NOT_REMOVABLE
    assert "/cache" in raised.value.problem.message

"""A pull contacts the hub only if files may be missing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.controller.pulling import NOT_ASKED, pull
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import ModelRef
from reconciler.models.download import Downloads

COMMIT = "a" * 40
MODEL = "maker/model"


class Lookups:
    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    async def find(self, _ref: ModelRef) -> Any:
        if self._path is None:
            raise LoadError(Problem(Reason.MODEL_NOT_FOUND, "not there"))
        return SimpleNamespace(key=MODEL, path=str(self._path), commit=COMMIT)


@pytest.fixture
async def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Downloads whose process must not contact the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = Downloads(tmp_path / "hub")
    yield found
    await found.close()


async def test_a_downloaded_model_needs_no_hub(tmp_path: Path, downloads: Any) -> None:
    there: Any = Lookups(tmp_path / "hub/models--maker--model")
    pulled = await pull(downloads, there, ModelRef(MODEL))
    assert pulled.job is None
    assert (pulled.message or "").startswith(NOT_ASKED)
    nothing: Any = Lookups()
    with pytest.raises(LoadError, match="HF_HUB_OFFLINE"):
        await pull(downloads, nothing, ModelRef(MODEL))


async def test_a_model_of_a_directory_or_a_downloaded_commit_needs_no_hub(
    tmp_path: Path, downloads: Any
) -> None:
    elsewhere: Any = Lookups(tmp_path / "models/maker/model")
    pulled = await pull(downloads, elsewhere, ModelRef(MODEL))
    assert (pulled.job, str(tmp_path / "models/maker/model") in (pulled.message or "")) == (
        None,
        True,
    )
    cached: Any = Lookups(tmp_path / "hub/models--maker--model")
    assert (await pull(downloads, cached, ModelRef(MODEL, COMMIT))).job is None
    assert downloads.jobs() == []

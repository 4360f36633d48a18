"""Test that config.json cannot make a worker build millions of modules."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest

from reconciler.worker import building, modules, shapes
from reconciler.worker.speculation import modules as drafts


@pytest.fixture
def many(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose config.json lists more layers than its weights have."""
    path = tmp_path / "many"
    shutil.copytree(models / "tiny/llama", path)
    config = json.loads((path / "config.json").read_text("utf-8"))
    config["layer_types"] = ["full_attention"] * 1000
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    monkeypatch.setattr(building, "MAX_MODULES", 1000)
    return path


@pytest.mark.parametrize(
    "build",
    [shapes.see, lambda path: modules.build(path, {}), drafts._build],
    ids=["shapes", "model", "draft"],
)
def test_a_model_of_too_many_modules_is_an_error(many: Path, build: Callable[[Path], Any]) -> None:
    original = nn.Module.__init__
    with pytest.raises(ValueError, match="the model has more than 1000 modules; check"):
        build(many)
    assert nn.Module.__init__ is original


def test_the_limit_does_not_apply_between_builds(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MAX_MODULES", 40)
    for _ in range(3):
        building.build_lazily(models / "tiny/llama")

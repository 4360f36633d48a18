"""Test the draft models that sessions share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3 as qwen3_module
from mlx_lm.utils import load_model

from reconciler.core.protocol import Draft
from reconciler.worker.speculation import modules as module
from reconciler.worker.speculation.draft import DraftModelError
from reconciler.worker.speculation.modules import DraftModules


def test_sessions_share_a_loaded_draft_model_until_none_uses_it(models: Path) -> None:
    modules, path = DraftModules(), models / "tiny/qwen3"
    draft = Draft(str(path), "f", 1, 0, 100)
    assert modules.get(draft) is modules.get(replace(draft, most_tokens=5))
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert modules.nbytes == pytest.approx(size, rel=0.01)
    for name, one in (("a", draft), ("b", None), ("c", replace(draft, fingerprint="g"))):
        modules.use(name, one)
    modules.drop_unused()
    assert modules.nbytes
    modules.leave("a")
    modules.drop_unused()
    assert modules.nbytes == 0
    with pytest.raises(DraftModelError, match="cannot be loaded"):
        modules.get(replace(draft, path=str(models / "none")))


def test_a_draft_model_that_cannot_compute_is_refused_when_it_is_loaded(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As experts in bfloat16, which MLX's CPU backend loads and does not multiply."""

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("only supports float32")

    modules = DraftModules()
    draft = Draft(str(models / "tiny/qwen3"), "f", 1, 0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(qwen3_module.Model, "__call__", failing)
        with pytest.raises(DraftModelError, match=r"qwen3 cannot be run: .* only supports float32"):
            modules.get(draft)
    assert modules.nbytes == 0
    assert modules.get(draft)


def test_a_draft_model_is_read_in_chunks(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights were read in one job of the MLX thread, and all streams waited."""
    path = models / "tiny/qwen3"
    arrays = [array for _, array in tree_flatten(load_model(path, lazy=True)[0].parameters())]
    largest = max(array.nbytes for array in arrays)
    monkeypatch.setattr(module, "CHUNK_BYTES", largest)
    modules, draft = DraftModules(), Draft(str(path), "f", 1, 0, 100)
    sizes: list[int] = []
    before, more = mx.get_active_memory(), True
    while more:
        more = modules.read("a", draft)
        sizes.append(mx.get_active_memory() - before - sum(sizes))
    assert sum(sizes) >= sum(array.nbytes for array in arrays)
    assert 0 < max(sizes) <= 2.1 * largest
    assert modules.read_for("a") == modules.nbytes
    assert not modules.read("b", draft), "it is loaded"
    assert modules.read_for("b") == 0


def test_a_draft_model_that_is_being_read_is_kept_for_its_session(models: Path) -> None:
    modules = DraftModules()
    draft = Draft(str(models / "tiny/qwen3"), "f", 1, 0, 100)
    assert modules.read("a", draft)
    modules.drop_unused()  # another session was closed
    assert modules.has(draft)
    modules.end_opening("a")
    modules.drop_unused()
    assert not modules.has(draft)

"""Test that the cached names of transformers' exports are dropped when they are stale."""

import json
import os
import sys
from pathlib import Path

import pytest
from transformers.utils.import_utils import create_import_structure_from_path

from reconciler.worker import import_cache

SOURCES = {
    "auto/modeling_auto.py": '__all__ = ["AutoModel", "AutoOther"]\n',
    "auto/inner/helper.py": '__all__ = [\n    "helper",\n]\n',
    "bert/tokenization_bert.py": '@requires(backends=("sentencepiece",))\nclass Bert:\n    pass\n',
    "nothing/empty.py": "",
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models like that of an installed transformers."""
    models = tmp_path / "site-packages" / "transformers" / "models"
    for name, source in SOURCES.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return models


@pytest.fixture
def kept(tmp_path: Path, models: Path) -> Path:
    """A file with the names of `models`."""
    file = tmp_path / "names.json"
    structure = create_import_structure_from_path(str(models))
    import_cache.write(file, import_cache.folders_of(models), "5.0", structure)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [file.name]
    return file


def test_cached_names_equal_those_that_transformers_finds(models: Path, kept: Path) -> None:
    expected = create_import_structure_from_path(str(models))
    assert {"AutoModel", "AutoOther"} in expected["auto"][frozenset({"torch"})].values()
    assert import_cache.read(kept, models, "5.0") == expected


def test_another_version_or_path_has_its_own_names(models: Path, kept: Path) -> None:
    assert import_cache.read(kept, models, "5.1") is None
    assert import_cache.read(kept, models / "auto", "5.0") is None


@pytest.mark.parametrize("change", ["bert/new.py", "new.py", "auto/inner/new.py"])
def test_an_added_or_removed_file_makes_the_cache_stale(
    models: Path, kept: Path, change: str
) -> None:
    path = models / change
    before = path.parent.stat().st_mtime_ns
    path.touch()
    os.utime(path.parent, ns=(before + 1, before + 1))  # even if the file system's clock is coarse
    assert import_cache.read(kept, models, "5.0") is None


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[]", b"null", b"\xff", b'{"version": "5.0"}'),
        b'{"version": "5.0", "folders": {}, "names": [[], {}]}',
        b'{"version": "5.0", "folders": 5, "names": [[], {}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_ignored(models: Path, kept: Path, damage: bytes) -> None:
    kept.write_bytes(damage)
    assert import_cache.read(kept, models, "5.0") is None


@pytest.mark.parametrize("names", [None, 5, [], [[1], {}], [[], []], [[[["a"], 1]], {}], [[], 1]])
def test_damaged_names_are_ignored(models: Path, kept: Path, names: object) -> None:
    document = json.loads(kept.read_bytes())
    kept.write_text(json.dumps(document | {"names": names}), "utf-8")
    assert import_cache.read(kept, models, "5.0") is None


def test_nothing_is_cached_if_writing_fails_or_is_disabled(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = import_cache.folders_of(models)
    import_cache.write(tmp_path / "missing" / "names", folders, "5.0", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import_cache.write(tmp_path / "names", folders, "5.0", {})
    assert [p.name for p in tmp_path.iterdir()] == ["site-packages"]


def test_a_failed_replacement_leaves_no_file_behind(tmp_path: Path, models: Path) -> None:
    (tmp_path / "names").mkdir()
    import_cache.write(tmp_path / "names", import_cache.folders_of(models), "5.0", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["names", "site-packages"]


def test_names_are_cached_beside_bytecode_only_for_an_installed_package(
    models: Path, tmp_path: Path
) -> None:
    file = import_cache.location(models)
    assert file is not None
    assert file.parent.name == "__pycache__"
    assert file != import_cache.location(tmp_path / "other" / "site-packages" / "models")
    assert import_cache.location(tmp_path / "source" / "transformers" / "models") is None

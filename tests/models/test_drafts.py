"""Test which models may draft for others, decided from files alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import ModelRef
from reconciler.models.catalog import Catalog
from reconciler.models.drafts import Tokens, read_tokens
from reconciler.models.files import FaultyFileError
from reconciler.models.places import Directory

MODEL = "tiny/llama"


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    for name in (MODEL, "tiny/qwen3"):
        shutil.copytree(models / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return Catalog([Directory(root)])


def edit(root: Path, change: Callable[[Any], None], name: str = "tiny/qwen3") -> None:
    file = root / name / "tokenizer.json"
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def refused(catalog: Catalog, draft: str = "tiny/qwen3") -> Problem:
    with pytest.raises(LoadError) as caught:
        catalog.find(ModelRef(MODEL, draft=draft))
    assert caught.value.problem.param == "draft_model"
    return caught.value.problem


def test_a_model_with_the_same_tokens_is_found(catalog: Catalog, root: Path) -> None:
    edit(root, lambda content: content.update(version="another formatting"))
    found = catalog.find(ModelRef(MODEL, draft="qwen3"))
    assert found.draft is not None
    assert found.draft.path == str((root / "tiny/qwen3").resolve())
    alone = catalog.find(ModelRef(MODEL))
    assert alone.draft is None
    assert found.fingerprint == alone.fingerprint
    assert found.files == f"{alone.files}+{found.draft.fingerprint}"
    assert found.revision != alone.revision


def test_another_number_of_tokens_is_refused_with_the_numbers(catalog: Catalog, root: Path) -> None:
    edit(root, lambda content: content["model"]["vocab"].update(one_more=400))
    problem = refused(catalog)
    assert problem.reason is Reason.INVALID_DRAFT_MODEL
    count = read_tokens(root / MODEL).count
    assert f"its tokenizer has {count + 1} tokens, the model's has {count}" in problem.message


def test_other_ids_are_refused(catalog: Catalog, root: Path) -> None:
    def swap(content: Any) -> None:
        vocabulary = content["model"]["vocab"]
        first, second = list(vocabulary)[10:12]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    edit(root, swap)
    assert "other texts or ids" in refused(catalog).message


def test_the_tokens_are_read_again_when_the_files_change(catalog: Catalog, root: Path) -> None:
    catalog.find(ModelRef(MODEL, draft="tiny/qwen3"))
    edit(root, lambda content: content["added_tokens"].append({"id": 999, "content": "x"}))
    assert refused(catalog).reason is Reason.INVALID_DRAFT_MODEL


def test_a_missing_draft_model_is_not_a_missing_model(catalog: Catalog) -> None:
    problem = refused(catalog, "no/such")
    assert problem.reason is Reason.DRAFT_MODEL_NOT_FOUND
    assert problem.message.startswith("Draft model no/such not found")


def test_a_broken_draft_model_is_refused_with_its_file(catalog: Catalog, root: Path) -> None:
    (root / "tiny/qwen3/config.json").write_text("nonsense")
    problem = refused(catalog)
    assert problem.reason is Reason.INVALID_DRAFT_MODEL
    assert str(root / "tiny/qwen3/config.json") in problem.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": {"vocab": {"a": -1}}}',
        b'{"model": {"vocab": {"a": "b"}}}',
        b'{"model": {"vocab": 5}}',
        b'{"model": {"vocab": {}}, "added_tokens": [{"id": 1e300, "content": "x"}]}',
    ],
)
def test_a_hostile_tokenizer_is_a_clear_error(catalog: Catalog, root: Path, content: bytes) -> None:
    (root / "tiny/qwen3/tokenizer.json").write_bytes(content)
    problem = refused(catalog)
    assert problem.reason is Reason.INVALID_DRAFT_MODEL
    assert "tokenizer.json" in problem.message
    assert catalog.find(ModelRef(MODEL)).draft is None


def test_a_model_without_the_file_is_refused(root: Path) -> None:
    (root / MODEL / "tokenizer.json").unlink()
    with pytest.raises(FaultyFileError, match="missing"):
        read_tokens(root / MODEL)


def test_unigram_tokens_are_numbered_in_their_order(tmp_path: Path) -> None:
    def read(model: Any) -> Tokens:
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}), "utf-8")
        return read_tokens(tmp_path)

    unigram = read({"type": "Unigram", "vocab": [["a", -1.5], ["b", 0]]})
    assert unigram == read({"type": "BPE", "vocab": {"b": 1, "a": 0}})
    assert unigram != read({"type": "BPE", "vocab": {"b": 0, "a": 1}})

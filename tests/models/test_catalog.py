"""From an identifier to a checkpoint; nothing outside the directories can be named."""

import shutil
from pathlib import Path

import pytest

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.models.catalog import Catalog


def test_publisher_and_name_are_found(models: Path) -> None:
    found = Catalog([models]).find("tiny/llama")
    assert found.path == str((models / "tiny/llama").resolve())


def test_the_first_directory_that_holds_it_wins(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny/llama", tmp_path / "tiny/llama")
    assert Catalog([tmp_path, models]).find("tiny/llama").path.startswith(str(tmp_path))
    assert Catalog([models, tmp_path]).find("tiny/llama").path.startswith(str(models))
    assert len(Catalog([models, tmp_path]).list()) == len(Catalog([models]).list())


def test_a_link_that_the_user_placed_is_followed(models: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(models / "tiny/llama")
    assert Catalog([tmp_path]).find("mine").path == str((models / "tiny/llama").resolve())


@pytest.mark.parametrize(
    "identifier",
    ["no/such", "", "/", "..", "../llama", "tiny/../tiny/llama", "tiny/llama/", "a\0b", "./llama"],
)
def test_what_is_not_a_name_under_a_directory_is_not_found(models: Path, identifier: str) -> None:
    with pytest.raises(LoadError) as raised:
        Catalog([models / "tiny"]).find(identifier)
    assert raised.value.problem.cause is Cause.MODEL_NOT_FOUND


def test_an_absolute_path_is_not_an_identifier(models: Path) -> None:
    with pytest.raises(LoadError) as raised:
        Catalog([models]).find(str(models / "tiny/llama"))
    assert raised.value.problem.cause is Cause.MODEL_NOT_FOUND


def test_a_checkpoint_that_cannot_load_is_listed_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text('{"model_type": "llama"}', "utf-8")
    (listed,) = Catalog([tmp_path]).list()
    assert listed.key == "bad"
    assert isinstance(listed.facts, Problem)
    assert "no model*.safetensors" in listed.facts.message

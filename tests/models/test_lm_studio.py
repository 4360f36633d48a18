"""LM Studio's folders: its models are found under its names."""

import json
import os
import shutil
from pathlib import Path

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.records import ModelRef
from reconciler.models.catalog import Catalog
from reconciler.models.places import LMStudio


class Folders:
    """LM Studio's directory."""

    def __init__(self, root: Path, models: Path) -> None:
        self.root = root
        self.models = models
        self.downloads = root / "models"
        root.mkdir()

    def download(self, key: str, *, gguf: bool = False) -> Path:
        path = self.downloads / key
        if gguf:
            path.mkdir(parents=True)
            (path / "model-Q4_K_M.gguf").touch()
        else:
            shutil.copytree(self.models / "tiny/llama", path)
        return path

    def virtual(self, key: str, base: str) -> None:
        path = self.root / "hub/models" / key
        path.mkdir(parents=True)
        text = f"# a virtual model\nmodel: {key}\nbase: {base}\ntags: [x]\n"
        (path / "model.yaml").write_text(text, "utf-8")

    def find(self, model: str) -> Path:
        return Path(Catalog([LMStudio(self.root)]).find(ModelRef(model)).path)

    def refusal(self, model: str, reason: Reason) -> str:
        with pytest.raises(LoadError) as raised:
            self.find(model)
        assert raised.value.problem.reason is reason
        return raised.value.problem.message


@pytest.fixture
def folders(tmp_path: Path, models: Path) -> Folders:
    return Folders(tmp_path / "lmstudio", models)


def source(*repositories: str) -> str:
    entries = []
    for repository in repositories:
        user, _, repo = repository.partition("/")
        sources = [{"type": "huggingface", "user": user, "repo": repo}]
        entries.append({"key": repository.lower(), "sources": sources})
    return json.dumps(entries)


def test_a_download_is_found_by_its_path_in_any_case(folders: Folders) -> None:
    path = folders.download("mlx-community/Qwen3-4B-4bit")
    for name in (
        "mlx-community/Qwen3-4B-4bit",
        "mlx-community/qwen3-4b-4bit",
        "Qwen3-4B-4bit",
        "qwen3-4b-4bit",
    ):
        assert folders.find(name) == path.resolve()


def test_the_downloads_folder_is_read_from_its_settings(folders: Folders, tmp_path: Path) -> None:
    folders.downloads = tmp_path / "elsewhere"
    path = folders.download("a/b")
    settings = {"downloadsFolder": str(folders.downloads)}
    (folders.root / "settings.json").write_text(json.dumps(settings), "utf-8")
    assert folders.find("a/b") == path.resolve()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 200_000,
        "[]",
        '{"downloadsFolder": 5}',
        '{"downloadsFolder": "x"}',
        '{"downloadsFolder": "~nobody-of-that-name/x"}',
    ],
)
def test_invalid_settings_leave_the_default_folder(folders: Folders, text: str) -> None:
    path = folders.download("a/b")
    (folders.root / "settings.json").write_text(text, "utf-8")
    assert folders.find("a/b") == path.resolve()


def test_pipes_are_not_opened(folders: Folders) -> None:
    path = folders.download("a/b")
    os.mkfifo(folders.root / "settings.json")
    folder = folders.root / "hub/models/a/virtual"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "model.yaml")
    assert folders.find("a/b") == path.resolve()


def test_a_catalogue_identifier_resolves_to_the_model_on_disk(folders: Folders) -> None:
    folders.virtual("openai/gpt-oss-20b", source("lmstudio-community/GPT-oss-20b-MLX-8bit"))
    message = folders.refusal("openai/gpt-oss-20b", Reason.MODEL_NOT_FOUND)
    assert "openai/gpt-oss-20b" in message
    path = folders.download("lmstudio-community/GPT-oss-20b-MLX-8bit")
    assert folders.find("openai/gpt-oss-20b") == path.resolve()
    assert folders.find("gpt-oss-20b") == path.resolve()


def test_a_chain_of_bases_is_followed(folders: Folders) -> None:
    path = folders.download("c/concrete")
    folders.virtual("a/outer", "b/inner")
    folders.virtual("b/inner", source("c/concrete"))
    assert folders.find("a/outer") == path.resolve()


def test_a_cycle_of_bases_is_not_found(folders: Folders) -> None:
    folders.virtual("a/one", "a/two")
    folders.virtual("a/two", "a/one")
    folders.refusal("a/one", Reason.MODEL_NOT_FOUND)


def test_virtual_models_that_all_name_each_other_are_resolved_quickly(folders: Folders) -> None:
    """29 models name all 30, and the last names the model on disk: without a set of visited models,
    the search would try 30^10 paths.
    """
    path = folders.download("c/concrete")
    names = [f"v/model-{n}" for n in range(30)]
    for name in names[:-1]:
        folders.virtual(name, source(*names))
    folders.virtual(names[-1], source("c/concrete"))
    for name in (names[0], names[17], names[-1]):
        assert folders.find(name) == path.resolve()
    assert len(Catalog([LMStudio(folders.root)]).listed()) == 31


def test_a_chain_may_be_long(folders: Folders) -> None:
    path = folders.download("c/concrete")
    for n in range(300):
        folders.virtual(f"v/{n}", f"v/{n + 1}")
    folders.virtual("v/300", "c/concrete")
    assert folders.find("v/0") == path.resolve()


def test_a_variant_that_is_not_mlx_is_ignored(folders: Folders) -> None:
    folders.download("x/model-GGUF", gguf=True)
    path = folders.download("x/model-MLX-4bit")
    folders.virtual("v/model", source("x/model-GGUF", "x/model-MLX-4bit", "x/model-MLX-8bit"))
    assert folders.find("v/model") == path.resolve()


def test_several_variants_are_ambiguous_and_named(folders: Folders) -> None:
    folders.download("x/model-MLX-4bit")
    eight = folders.download("x/model-MLX-8bit")
    folders.virtual("v/model", source("x/model-MLX-4bit", "x/model-MLX-8bit"))
    message = folders.refusal("v/model", Reason.AMBIGUOUS_MODEL)
    assert "x/model-MLX-4bit or x/model-MLX-8bit" in message
    assert folders.find("x/model-mlx-8bit") == eight.resolve()


@pytest.mark.parametrize("text", ["base: [", "[]", "base: 5", "base: [{sources: 7}]", ""])
def test_a_broken_model_yaml_blocks_nothing(folders: Folders, text: str) -> None:
    path = folders.download("a/b")
    folders.virtual("v/broken", "a/b")
    (folders.root / "hub/models/v/broken/model.yaml").write_text(text, "utf-8")
    assert folders.find("a/b") == path.resolve()
    folders.refusal("v/broken", Reason.MODEL_NOT_FOUND)


def test_without_lm_studio_nothing_is_listed(tmp_path: Path) -> None:
    assert Catalog([LMStudio(tmp_path / "none")]).listed() == ()


def test_each_model_is_listed_once_by_its_key_and_its_catalogue_name(folders: Folders) -> None:
    folders.download("x/one")
    folders.download("y/two-4bit")
    folders.download("y/two-8bit")
    folders.virtual("v/one", source("x/one"))
    folders.virtual("v/two", source("y/two-4bit", "y/two-8bit"))
    listed = [m.key for m in Catalog([LMStudio(folders.root)]).listed()]
    assert listed == ["v/one", "x/one", "y/two-4bit", "y/two-8bit"]

"""Identifiers resolve to checkpoints; none resolves to a path outside the directories."""

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models import files, places
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache


def catalog(*directories: Path) -> Catalog:
    return Catalog([Directory(directory) for directory in directories])


def test_publisher_and_name_are_found(models: Path) -> None:
    found = catalog(models).find(ModelRef("tiny/llama"))
    assert found.path == str((models / "tiny/llama").resolve())


def test_the_first_directory_that_holds_it_wins(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "tiny/llama", tmp_path / "tiny/llama")
    assert catalog(tmp_path, models).find(ModelRef("tiny/llama")).path.startswith(str(tmp_path))
    assert catalog(models, tmp_path).find(ModelRef("tiny/llama")).path.startswith(str(models))
    assert len(catalog(models, tmp_path).listed()) == len(catalog(models).listed())


def test_a_link_that_the_user_placed_is_followed(models: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(models / "tiny/llama")
    assert catalog(tmp_path).find(ModelRef("mine")).path == str((models / "tiny/llama").resolve())


@pytest.mark.parametrize(
    "identifier",
    ["no/such", "", "/", "..", "../llama", "tiny/../tiny/llama", "tiny/llama/", "a\0b", "./llama"],
)
def test_invalid_identifiers_are_not_found(models: Path, identifier: str) -> None:
    with pytest.raises(LoadError) as raised:
        catalog(models / "tiny").find(ModelRef(identifier))
    assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND


def test_an_absolute_path_is_not_an_identifier(models: Path) -> None:
    with pytest.raises(LoadError) as raised:
        catalog(models).find(ModelRef(str(models / "tiny/llama")))
    assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND


def test_a_checkpoint_that_cannot_load_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text('{"model_type": "llama"}', "utf-8")
    (listed,) = catalog(tmp_path).listed()
    assert listed.key == "bad"
    assert isinstance(listed.facts, Problem)
    assert "no model*.safetensors" in listed.facts.message


@pytest.fixture
def hub(models: Path, tmp_path: Path) -> Path:
    """A Hugging Face cache with one model, in the layout of its tools."""
    repository = tmp_path / "models--openai--gpt--oss"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc123"
    shutil.copytree(models / "tiny/llama", blobs)
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc123", "ascii")
    (tmp_path / "datasets--x--y").mkdir()
    return tmp_path


def test_a_model_in_the_hugging_face_cache_is_found_and_listed(hub: Path) -> None:
    found = Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss"))
    assert found.path.endswith("snapshots/abc123")
    assert [m.key for m in Catalog([HubCache(hub)]).listed()] == ["openai/gpt--oss"]


def test_a_ref_cannot_lead_out_of_the_cache(hub: Path) -> None:
    (hub / "models--openai--gpt--oss/refs/main").write_text("../../../etc", "ascii")
    with pytest.raises(LoadError):
        Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss"))
    assert Catalog([HubCache(hub)]).listed() == ()


def test_a_partly_downloaded_model_is_not_found(hub: Path) -> None:
    (hub / "models--openai--gpt--oss/refs/main").unlink()
    with pytest.raises(LoadError):
        Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss"))


def test_a_missing_cache_is_treated_as_empty(tmp_path: Path) -> None:
    assert Catalog([HubCache(tmp_path / "none")]).listed() == ()


# -- names ---------------------------------------------------------------------------------


def copy(models: Path, *targets: Path) -> None:
    for target in targets:
        shutil.copytree(models / "tiny/llama", target)


def test_a_bare_name_is_enough_if_it_is_unique(models: Path, tmp_path: Path) -> None:
    copy(models, tmp_path / "a/one", tmp_path / "b/two")
    found = catalog(tmp_path)
    assert found.find(ModelRef("one")).path.endswith("a/one")
    copy(models, tmp_path / "b/one")
    with pytest.raises(LoadError, match="a/one or b/one") as raised:
        found.find(ModelRef("one"))
    assert raised.value.problem.reason is Reason.AMBIGUOUS_MODEL


def test_case_matters_only_if_names_differ_in_case_alone(models: Path, tmp_path: Path) -> None:
    copy(models, tmp_path / "a/One")
    assert catalog(tmp_path).find(ModelRef("A/one")).path.endswith("a/One")
    copy(models, tmp_path / "a/oNE")
    assert catalog(tmp_path).find(ModelRef("a/One")).path.endswith("a/One")
    with pytest.raises(LoadError, match="a/One or a/oNE"):
        catalog(tmp_path).find(ModelRef("a/one"))


def test_a_typo_is_answered_with_similar_names(models: Path) -> None:
    with pytest.raises(LoadError, match="similar names: tiny/llama"):
        catalog(models).find(ModelRef("tiny/lama"))


# -- revisions -----------------------------------------------------------------------------


@pytest.fixture
def revisions(hub: Path) -> Path:
    """The cache with a second commit, which a tag and a branch name."""
    repository = hub / "models--openai--gpt--oss"
    shutil.copytree(repository / "snapshots/abc123", repository / "snapshots/def456", symlinks=True)
    (repository / "refs/v2").write_text("def456", "ascii")
    (repository / "refs/pr").mkdir()
    (repository / "refs/pr/1").write_text("def456", "ascii")
    return hub


@pytest.mark.parametrize("revision", ["def456", "v2", "pr/1"])
def test_a_revision_is_a_commit_a_branch_or_a_tag(revisions: Path, revision: str) -> None:
    found = Catalog([HubCache(revisions)])
    pinned = found.find(ModelRef("openai/gpt--oss", revision))
    assert (pinned.commit, pinned.revision) == ("def456", "def456")
    assert pinned.path.endswith("snapshots/def456")
    assert found.find(ModelRef("openai/gpt--oss")).commit == "abc123"


@pytest.mark.parametrize("revision", ["nope", "..", "../abc123", "/etc", "def45"])
def test_a_missing_revision_is_not_found(revisions: Path, revision: str) -> None:
    with pytest.raises(LoadError, match="at revision") as raised:
        Catalog([HubCache(revisions)]).find(ModelRef("openai/gpt--oss", revision))
    assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND


def test_plain_directories_have_no_revisions(models: Path) -> None:
    with pytest.raises(LoadError, match="only the Hugging Face cache holds revisions"):
        catalog(models).find(ModelRef("tiny/llama", "main"))


def test_changed_files_are_read_again(models: Path, tmp_path: Path) -> None:
    copy(models, tmp_path / "one")
    found, one = catalog(tmp_path), ModelRef("one")
    before = found.find(one)
    assert found.find(one) == before
    (tmp_path / "one/config.json").write_text("{", "utf-8")
    with pytest.raises(LoadError, match=r"config\.json"):
        found.find(one)
    (tmp_path / "one/model.safetensors").unlink()
    with pytest.raises(LoadError, match="no model"):
        found.find(one)


def test_many_models_are_found_in_one_pass(models: Path, revisions: Path) -> None:
    there, absent = ModelRef("tiny/llama"), ModelRef("no/such")
    pinned = ModelRef("openai/gpt--oss", "v2")
    found = Catalog([Directory(models), HubCache(revisions)]).find_all([there, absent, pinned])
    assert isinstance(found[absent], Problem)
    assert [type(found[ref]) for ref in (there, pinned)] == [Checkpoint, Checkpoint]


def test_many_revisions_need_one_scan_of_each_model(
    revisions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def files_below(path: Path) -> Iterator[Path]:
        looks.append(path)
        return files.files_below(path)

    monkeypatch.setattr(places, "files_below", files_below)
    refs = [ModelRef("openai/gpt--oss", f"no-{n}") for n in range(20)]
    there = ModelRef("openai/gpt--oss", "v2")
    found = Catalog([HubCache(revisions)]).find_all([*refs, there])
    assert [ref for ref, one in found.items() if isinstance(one, Checkpoint)] == [there]
    assert looks == [revisions / "models--openai--gpt--oss/refs"]


def test_the_error_for_an_incomplete_snapshot_names_a_complete_one(hub: Path) -> None:
    """An interrupted download leaves the ref moved and some files missing."""
    repository = hub / "models--openai--gpt--oss"
    snapshot = repository / "snapshots/def456"
    shutil.copytree(repository / "snapshots/abc123", snapshot)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    (repository / "refs/main").write_text("def456", "ascii")
    words = r"model-00002-of-00002\.safetensors missing.*complete: revision abc123"
    with pytest.raises(LoadError, match=words) as raised:
        Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss"))
    assert raised.value.problem.reason is Reason.INVALID_CHECKPOINT
    pinned = Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss", "abc123"))
    assert pinned.path.endswith("snapshots/abc123")
    shutil.rmtree(repository / "snapshots/abc123")
    with pytest.raises(LoadError, match=r"missing$"):
        Catalog([HubCache(hub)]).find(ModelRef("openai/gpt--oss"))


def test_one_hostile_checkpoint_does_not_hide_the_others(models: Path, tmp_path: Path) -> None:
    copy(models, tmp_path / "good", tmp_path / "deep", tmp_path / "huge", tmp_path / "header")
    (tmp_path / "deep/config.json").write_text('{"a":' * 50_000, "utf-8")
    config = json.loads((tmp_path / "huge/config.json").read_bytes())
    config |= {"max_position_embeddings": 10**400, "num_hidden_layers": 10**400}
    (tmp_path / "huge/config.json").write_text(json.dumps(config), "utf-8")
    entry = {"dtype": {}, "shape": "x" * 10_000, "data_offsets": ["y" * 10_000, None]}
    data = json.dumps({"a": entry}).encode()
    (tmp_path / "header/model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    listed = {model.key: model.facts for model in catalog(tmp_path).listed()}
    assert {key for key, facts in listed.items() if isinstance(facts, Checkpoint)} == {
        "good",
        "huge",
    }
    for facts in listed.values():
        assert len(msgspec.json.encode(facts)) < 2000


def test_an_unreadable_directory_does_not_hide_the_others(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, hub = tmp_path / "models", tmp_path / "hub"
    copy(models, root / "good", root / "locked", hub / "models--a--good/snapshots/abc")
    for name in ("good", "locked"):
        refs = hub / f"models--a--{name}/refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text("abc", "ascii")
    look = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        """Fail as for a user without search permission on the locked folders."""
        if "locked/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    found = {m.key: m.facts for m in Catalog([Directory(root), HubCache(hub)]).listed()}
    assert {key for key, facts in found.items() if isinstance(facts, Checkpoint)} == {
        "good",
        "a/good",
    }
    assert isinstance(found.get("locked", Problem(Reason.INVALID_CHECKPOINT, "")), Problem)


def test_names_that_are_not_text_do_not_hide_the_others(models: Path, tmp_path: Path) -> None:
    copy(models, tmp_path / "good", tmp_path / "bad")
    undecodable = os.fsdecode(b"model-\xff.safetensors")
    try:
        (tmp_path / "good" / os.fsdecode(b"\xff.json")).write_text("{}", "utf-8")
        (tmp_path / "bad" / undecodable).write_bytes(b"short")
        (tmp_path / os.fsdecode(b"\xff")).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    copy(models, tmp_path / os.fsdecode(b"\xff") / "model")
    found = catalog(tmp_path)
    for _ in range(2):
        listed = {model.key: model.facts for model in found.listed()}
        assert listed.keys() == {"good", "bad"}
        assert isinstance(listed["good"], Checkpoint)
        assert isinstance(listed["bad"], Problem)
        assert msgspec.json.encode(listed["bad"])


@pytest.mark.parametrize("name", ["gpt\u202ezzz", "a\u2028b", "a\x1b[2J", "a\nb"])
def test_a_name_that_would_be_shown_as_another_is_no_model(
    models: Path, tmp_path: Path, name: str
) -> None:
    copy(models, tmp_path / "good", tmp_path / name, tmp_path / "maker" / name)
    assert {model.key for model in catalog(tmp_path).listed()} == {"good"}

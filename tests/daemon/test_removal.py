"""`show` and `rm`: describe a model on disk, and remove one from the Hugging Face cache only."""

import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import main
from tests.support import Daemon

LLAMA = "tiny/llama"
COMMIT = "a" * 40
_serial = itertools.count(1)


def invoke(daemon: Daemon, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=typed, env={"RECONCILER_URL": daemon.url})


@pytest.fixture
def cached(shared: Daemon, models: Path) -> str:
    """Key of a model in the Hugging Face cache."""
    key = f"maker/cached-{next(_serial)}"
    folder = folder_of(shared, key)
    snapshot, blobs = folder / "snapshots" / COMMIT, folder / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in (models / LLAMA).iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT, "utf-8")
    return key


def folder_of(daemon: Daemon, key: str) -> Path:
    return daemon.home.hub_cache / f"models--{key.replace('/', '--')}"


def listed(daemon: Daemon) -> set[str]:
    return {model["key"] for model in daemon.get("/api/v1/models")["models"]}


def test_show_describes_a_model_by_its_key_and_by_a_record(shared: Daemon, models: Path) -> None:
    shared.load({"model": LLAMA, "instance_id": "shown", "context_length": 64})
    for name in (LLAMA, "shown"):
        result = invoke(shared, "show", name)
        assert result.exit_code == 0, result.output
        lines = dict(line.split(":", 1) for line in result.output.splitlines())
        shown = {word: value.strip() for word, value in lines.items()}
        assert (shown["Model"], shown["Architecture"]) == (LLAMA, "llama")
        assert shown["Path"] == str((models / LLAMA).resolve())
        assert "shown" in shown["Used by"].split(", ")
        assert shown["Context"].endswith("tokens")
        assert "Quantisation" not in shown
    shared.unload("shown")


def test_show_can_print_only_the_chat_template(shared: Daemon, cached: str) -> None:
    template = folder_of(shared, cached) / "snapshots" / COMMIT / "chat_template.jinja"
    text = template.read_text("utf-8")
    assert invoke(shared, "show", cached, "--template").output == text + "\n"
    template.unlink()
    result = invoke(shared, "show", cached, "--template")
    assert (result.exit_code, result.output) == (1, f"Error: {cached} has no chat template\n")


def test_show_reports_why_a_model_cannot_be_loaded(shared: Daemon, cached: str) -> None:
    (folder_of(shared, cached) / "blobs" / "config.json").write_text("{", "utf-8")
    result = invoke(shared, "show", cached)
    assert result.exit_code == 0
    assert "Problem:" in result.output


def test_show_of_an_unknown_model_exits_with_4(shared: Daemon) -> None:
    result = invoke(shared, "show", "no/such")
    assert result.exit_code == 4
    assert "`reconciler ls`" in result.output


def test_a_cached_model_is_removed_with_all_of_its_files(shared: Daemon, cached: str) -> None:
    assert cached in listed(shared)
    result = invoke(shared, "rm", cached, "--yes")
    assert result.exit_code == 0, result.output
    assert f"{cached} is removed" in result.output
    assert not folder_of(shared, cached).exists()
    assert [p.name for p in shared.home.hub_cache.iterdir() if p.name.startswith(".rem")] == []
    assert cached not in listed(shared)


def test_nothing_is_removed_unless_the_question_is_answered_yes(
    shared: Daemon, cached: str
) -> None:
    assert invoke(shared, "rm", cached, typed="n\n").exit_code != 0
    assert cached in listed(shared)
    assert invoke(shared, "rm", cached, typed="y\n").exit_code == 0
    assert cached not in listed(shared)


@pytest.mark.parametrize("suspend", [True, False])
def test_a_model_used_by_a_record_is_not_removed(
    shared: Daemon, cached: str, *, suspend: bool
) -> None:
    spec = {"model": cached, "suspend": suspend, "config": {"context_length": 64}}
    assert shared.request("PUT", "/api/v1/records/user?wait=ready", {"spec": spec})[0] == 200
    result = invoke(shared, "rm", cached, "--yes")
    assert result.exit_code == 1
    assert f"{cached} is in use by user" in result.output
    assert folder_of(shared, cached).is_dir()
    shared.unload("user")
    assert invoke(shared, "rm", cached, "--yes").exit_code == 0


def test_a_model_that_a_record_names_by_its_last_part_is_not_removed(
    shared: Daemon, cached: str
) -> None:
    spec = {"model": cached.rpartition("/")[2].upper(), "suspend": True}
    assert shared.request("PUT", "/api/v1/records/bare", {"spec": spec})[0] == 200
    assert "in use by bare" in invoke(shared, "rm", cached, "--yes").output
    shared.unload("bare")


def test_a_model_of_another_directory_is_refused_with_its_path(
    shared: Daemon, models: Path
) -> None:
    status, answer = shared.request("DELETE", f"/api/v1/checkpoints/{LLAMA}")
    assert (status, answer["error"]["code"]) == (409, "not_removable")
    assert str((models / LLAMA).resolve()) in answer["error"]["message"]
    assert (models / LLAMA / "config.json").is_file()


def test_a_link_in_the_cache_is_not_followed(shared: Daemon, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "snapshots").mkdir(parents=True)
    folder_of(shared, "maker/link").parent.mkdir(exist_ok=True)
    folder_of(shared, "maker/link").symlink_to(outside)
    assert shared.request("DELETE", "/api/v1/checkpoints/maker/link")[0] == 404
    assert (outside / "snapshots").is_dir()


@pytest.mark.parametrize(
    "key", ["..", "../hub", "%2e%2e/x", "no/such", "/", "a/b/c", "maker--cached-1", "."]
)
def test_a_name_of_no_cached_model_removes_nothing(shared: Daemon, key: str) -> None:
    before = sorted(shared.home.root.rglob("*"))
    assert shared.request("DELETE", f"/api/v1/checkpoints/{key}")[0] in (404, 405)
    assert sorted(shared.home.root.rglob("*")) == before


def test_a_name_with_dots_leads_to_no_other_route(shared: Daemon) -> None:
    spec = {"model": LLAMA, "suspend": True}
    assert shared.request("PUT", "/api/v1/records/bystander", {"spec": spec})[0] == 200
    for words in (("rm", "--yes"), ("show",), ("get",), ("describe",)):
        result = invoke(shared, *words, "../records/bystander")
        assert (result.exit_code, "../records/bystander" in result.output) == (4, True)
    assert shared.request("GET", "/api/v1/records/bystander")[0] == 200
    shared.unload("bystander")


@pytest.mark.parametrize("by_link", [True, False])
def test_an_adapter_that_a_suspended_record_names_by_path_is_not_removed(
    shared: Daemon, cached: str, tmp_path: Path, *, by_link: bool
) -> None:
    folder = folder_of(shared, cached)
    (tmp_path / "link").symlink_to(folder)
    path = (tmp_path / "link" if by_link else folder) / "snapshots" / COMMIT
    spec = {"model": LLAMA, "adapter": str(path), "suspend": True}
    assert shared.request("PUT", "/api/v1/records/adapted", {"spec": spec})[0] == 200
    result = invoke(shared, "rm", cached, "--yes")
    assert f"{cached} is in use by adapted" in result.output
    assert folder.is_dir()
    shared.unload("adapted")


def test_a_model_that_drafts_for_another_is_not_removed(shared: Daemon, cached: str) -> None:
    body = {"model": LLAMA, "draft_model": cached, "instance_id": "assisted"}
    shared.load(body)
    assert f"{cached} is in use by assisted" in invoke(shared, "rm", cached, "--yes").output
    spec = {"model": LLAMA, "draft_model": cached, "suspend": True}
    assert shared.request("PUT", "/api/v1/records/assisted", {"spec": spec})[0] == 200
    shared.eventually("assisted", lambda record: record["status"]["draft_model"] is None)
    assert f"{cached} is in use by assisted" in invoke(shared, "rm", cached, "--yes").output
    assert folder_of(shared, cached).is_dir()
    shared.unload("assisted")


def test_of_two_removals_at_once_one_removes_and_the_other_finds_nothing(
    shared: Daemon, cached: str
) -> None:
    def remove(_: int) -> tuple[int, str]:
        status, answer = shared.request("DELETE", f"/api/v1/checkpoints/{cached}")
        return status, answer["error"]["code"] if status != 200 else ""

    with ThreadPoolExecutor(6) as threads:
        answers = sorted(threads.map(remove, range(6)))
    assert answers == [(200, ""), *[(404, "model_not_found")] * 5]

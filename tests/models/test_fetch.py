"""The process that downloads a model, run without a daemon."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.models.fetch import FetchError, Wanted, check_space, matches
from tests.hub import Hub
from tests.support import environment


@pytest.fixture
def name() -> str:
    return "maker/small"


@pytest.fixture
def hub(name: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with only that model."""
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        more = {"model_dot_py": b"raise SystemExit", "x_dot_bin": b"pickle"}
        hub.add(name, models / "tiny/llama", **more)
        yield hub


def fetch(cache: Path, name: str, revision: str = "main", **environ: str) -> Any:
    """Last output line of the fetching process, run without a daemon."""
    command = [sys.executable, "-m", "reconciler.models.fetch", str(cache), name, revision]
    pipe, environ = subprocess.PIPE, environment(**environ)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ) as process:
        assert process.stdout is not None
        return json.loads(process.stdout.read().splitlines()[-1])


def test_a_token_gives_access_to_a_gated_model(tmp_path: Path, hub: Hub, name: str) -> None:
    hub.repositories[name].gated = True
    assert fetch(tmp_path, name)["error"] == "model_gated"
    hub.asked.clear()
    assert fetch(tmp_path, name, HF_TOKEN="hf_secret") == {"done": hub.repositories[name].commit}
    assert [path for path, h in hub.asked if h.get("authorization") != "Bearer hf_secret"] == []


@pytest.mark.parametrize("revision", ["../../x", "a/../../../x", "/x", ".", "v1/", "v1\n", ""])
def test_no_revision_writes_outside_the_cache(
    tmp_path: Path, hub: Hub, name: str, revision: str
) -> None:
    repository = hub.repositories[name]
    repository.tag = revision  # a hub that serves this revision
    cache = tmp_path / "cache"
    assert fetch(cache, name, revision)["error"] == "revision_not_found"
    assert hub.asked == []
    assert [path.name for path in tmp_path.rglob("*")] == []


@pytest.mark.parametrize("part", ["refs", "blobs", "snapshots", "snapshots/COMMIT"])
def test_links_in_the_cache_do_not_redirect_a_download(
    tmp_path: Path, hub: Hub, name: str, part: str
) -> None:
    folder, elsewhere = tmp_path / f"cache/models--{name.replace('/', '--')}", tmp_path / "x"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    link = folder / part.replace("COMMIT", hub.repositories[name].commit)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    line = fetch(tmp_path / "cache", name)
    assert line["error"] == "disk_error"
    assert f"leads out of {folder}" in line["message"]
    assert list(elsewhere.iterdir()) == []


def test_a_ref_that_is_a_link_is_replaced_instead_of_followed(
    tmp_path: Path, hub: Hub, name: str
) -> None:
    refs = tmp_path / f"cache/models--{name.replace('/', '--')}/refs"
    refs.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_text("precious", "utf-8")
    (refs / "main").symlink_to(mine)
    assert "done" in fetch(tmp_path / "cache", name)
    assert mine.read_text("utf-8") == "precious"
    assert (refs / "main").read_text("ascii") == hub.repositories[name].commit


def test_an_unreachable_or_forbidden_hub_is_reported_as_such(
    tmp_path: Path, hub: Hub, name: str
) -> None:
    assert fetch(tmp_path, name, HF_HUB_OFFLINE="1")["error"] == "offline"
    assert fetch(tmp_path, name, HF_ENDPOINT="http://127.0.0.1:1")["error"] == "hub_unreachable"
    assert hub.asked == []


def test_free_space_is_checked_first() -> None:
    check_space(10, 10)
    message = r"2\.0 GB must be downloaded, but only 1\.0 GB are free"
    with pytest.raises(FetchError, match=message) as caught:
        check_space(2_000_000_000, 1_000_000_000)
    assert caught.value.code == "insufficient_disk_space"


def test_a_file_is_verified_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    sha1 = "ce013625030ba8dba906f756967f9e9ca394464a"  # output of `git hash-object`
    sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    for etag, right in ((sha1, True), (sha256, True), ("0" * 40, False), ("0" * 64, False)):
        assert matches(path, Wanted("x", 6, etag)) is right
    assert not matches(path, Wanted("x", 7, sha1))

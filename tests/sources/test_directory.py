"""Snapshots of a directory."""

import asyncio
from pathlib import Path

import pytest

from reconciler.core.snapshot import Snapshot
from reconciler.sources import directory as source
from reconciler.sources.directory import DirectorySource
from reconciler.sources.scan import Scanner
from reconciler.sources.watch import MAX_NAMED, Watch, relative_paths

VALID = "{apiVersion: reconciler/v1, kind: ModelInstance, metadata: {name: a}, spec: {model: m}}"


async def test_yaml_yml_and_json_are_read_in_all_subdirectories(tmp_path: Path) -> None:
    for file in ("a.yaml", "sub/b.yml", "sub/deep/c.json"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VALID, "utf-8")
    for file in (".hidden.yaml", "a.yaml~", "a.yaml.swp", "4913", "notes.md", ".git/x.yaml"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[", "utf-8")
    snapshot = await DirectorySource(tmp_path).scan()
    assert [f.path for f in snapshot.files] == ["a.yaml", "sub/b.yml", "sub/deep/c.json"]
    assert all(f.valid for f in snapshot.files)


async def test_one_bad_file_does_not_block_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    (tmp_path / "b.yaml").write_text("a: [", "utf-8")
    snapshot = await DirectorySource(tmp_path).scan()
    assert [(f.path, f.valid) for f in snapshot.files] == [("a.yaml", True), ("b.yaml", False)]


async def test_a_missing_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    missing = await DirectorySource(tmp_path / "missing").scan()
    assert missing.unreadable is not None
    assert str(tmp_path / "missing") in missing.unreadable
    empty = await DirectorySource(tmp_path).scan()
    assert (empty.unreadable, empty.empty, empty.files) == (None, True, ())
    (tmp_path / "README").touch()
    assert (await DirectorySource(tmp_path).scan()).empty is False


def test_the_name_does_not_depend_on_a_links_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    before = DirectorySource(tmp_path / "link" / "fleet")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert DirectorySource(tmp_path / "x" / ".." / "link" / "fleet").name == before.name


async def test_a_replaced_link_is_followed(tmp_path: Path) -> None:
    """git-sync writes a new tree next to the old one, then replaces the link."""
    for commit in ("one", "two"):
        (tmp_path / commit / "fleet").mkdir(parents=True)
        (tmp_path / commit / "fleet" / f"{commit}.yaml").write_text(VALID, "utf-8")
    link = tmp_path / "current"
    link.symlink_to("one")
    snapshots = DirectorySource(link / "fleet").snapshots()
    assert [f.path for f in (await anext(snapshots)).files] == ["one.yaml"]
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert [f.path for f in (await anext(snapshots)).files] == ["two.yaml"]
    await snapshots.aclose()


async def test_a_change_is_seen_without_waiting_for_the_rescan(tmp_path: Path) -> None:
    snapshots = DirectorySource(tmp_path).snapshots()
    assert (await anext(snapshots)).files == ()
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_a_change_before_the_first_scan_is_not_lost(tmp_path: Path) -> None:
    snapshots = DirectorySource(tmp_path).snapshots()
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_a_directory_that_appears_is_watched(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    snapshots = DirectorySource(directory).snapshots()
    assert (await anext(snapshots)).unreadable is not None
    directory.mkdir()
    (directory / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_a_replaced_directory_is_watched_again(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    snapshots = DirectorySource(directory).snapshots()
    assert (await anext(snapshots)).files == ()
    directory.rename(tmp_path / "old")
    directory.mkdir()
    async for snapshot in snapshots:
        if snapshot.unreadable is None:
            break
    (directory / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_a_directory_that_cannot_be_watched_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "no space left for watches")

    monkeypatch.setattr("reconciler.sources.watch.RustNotify", fail)
    monkeypatch.setattr("reconciler.sources.directory.POLL_SECONDS", 0.01)
    snapshots = DirectorySource(tmp_path).snapshots()
    assert (await anext(snapshots)).files == ()
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_a_change_without_an_event_is_found_by_the_rescan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes of a link's target outside the directory cause no event."""
    outside = tmp_path / "outside.yaml"
    outside.write_text(VALID, "utf-8")
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").symlink_to(outside)
    monkeypatch.setattr(source, "RESCAN_SECONDS", 0.3)
    snapshots = DirectorySource(directory).snapshots()
    assert (await anext(snapshots)).files[0].declared[0].name == "a"
    outside.write_text(VALID.replace("name: a", "name: b"), "utf-8")
    async for snapshot in snapshots:
        if snapshot.files[0].declared[0].name == "b":
            break
    await snapshots.aclose()


async def test_a_requested_sync_scans_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[frozenset[str] | None] = []
    scan = Scanner.scan

    async def noted(scanner: Scanner, named: frozenset[str] | None = None) -> Snapshot:
        looks.append(named)
        return await scan(scanner, named)

    monkeypatch.setattr(Scanner, "scan", noted)
    followed = DirectorySource(tmp_path)
    snapshots = followed.snapshots()
    await anext(snapshots)
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    await anext(snapshots)
    assert looks == [None, frozenset({"a.yaml"})]
    asked = asyncio.create_task(followed.sync())
    await anext(snapshots)
    assert looks[-1] is None
    await snapshots.aclose()
    await asked


async def test_changed_paths_are_reported_unless_they_may_be_incomplete(tmp_path: Path) -> None:
    watch = Watch(tmp_path, rescan_seconds=1000.0)
    await watch.settled.wait()
    assert watch.take() is None  # changes before the watch began are unknown
    (tmp_path / "a.yaml").touch()
    await watch.changed.wait()
    assert watch.take() == frozenset({"a.yaml"})
    assert watch.take() is None  # a scan without an event has an unknown cause
    watch._note(frozenset({"b.yaml"}))
    watch._note(frozenset(f"{n}.yaml" for n in range(MAX_NAMED)))
    assert watch.take() is None
    watch.close()


def test_paths_that_may_have_another_spelling_are_not_reported() -> None:
    here = Path("/m")
    assert relative_paths(here, ["/m/a.yaml", "/m/sub/b.yaml"]) == frozenset(
        {"a.yaml", "sub/b.yaml"}
    )
    for strange in ("/private/m/a.yaml", "/m", "/M/a.yaml", "/m/\u00e4.yaml"):
        assert relative_paths(here, ["/m/a.yaml", strange]) is None

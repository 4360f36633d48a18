"""A directory as snapshots."""

from pathlib import Path

from reconciler.sources.directory import DirectorySource

VALID = "{apiVersion: reconciler/v1, kind: ModelInstance, metadata: {name: a}, spec: {model: m}}"


def test_yaml_yml_and_json_are_read_in_all_subdirectories(tmp_path: Path) -> None:
    for file in ("a.yaml", "sub/b.yml", "sub/deep/c.json"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VALID, "utf-8")
    for file in (".hidden.yaml", "a.yaml~", "a.yaml.swp", "4913", "notes.md", ".git/x.yaml"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[", "utf-8")
    snapshot = DirectorySource(tmp_path).scan()
    assert [f.path for f in snapshot.files] == ["a.yaml", "sub/b.yml", "sub/deep/c.json"]
    assert all(f.valid for f in snapshot.files)


def test_one_bad_file_does_not_block_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    (tmp_path / "b.yaml").write_text("a: [", "utf-8")
    (tmp_path / "c.yaml").symlink_to(tmp_path / "nowhere")
    snapshot = DirectorySource(tmp_path).scan()
    assert [(f.path, f.valid) for f in snapshot.files] == [("a.yaml", True), ("b.yaml", False)]


def test_a_missing_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    missing = DirectorySource(tmp_path / "missing").scan()
    assert missing.unreadable is not None
    assert str(tmp_path / "missing") in missing.unreadable
    empty = DirectorySource(tmp_path).scan()
    assert (empty.unreadable, empty.empty, empty.files) == (None, True, ())
    (tmp_path / "README").touch()
    assert DirectorySource(tmp_path).scan().empty is False


def test_the_name_does_not_depend_on_links_in_the_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    link, real = DirectorySource(tmp_path / "link"), DirectorySource(tmp_path / "real")
    assert link.name == real.name


async def test_a_change_is_seen_without_waiting_for_the_rescan(tmp_path: Path) -> None:
    snapshots = DirectorySource(tmp_path).snapshots()
    assert (await anext(snapshots)).files == ()
    (tmp_path / "a.yaml").write_text(VALID, "utf-8")
    assert [f.path for f in (await anext(snapshots)).files] == ["a.yaml"]
    await snapshots.aclose()


async def test_what_changes_before_the_first_look_is_not_lost(tmp_path: Path) -> None:
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


async def test_a_directory_that_was_replaced_is_watched_anew(tmp_path: Path) -> None:
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

"""Scans of directories with invalid entries: each is an error of its own path."""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.snapshot import ManifestFile, read_file
from reconciler.sources import files
from reconciler.sources import walk as walks
from reconciler.sources.files import Identity
from reconciler.sources.rewalk import walk
from reconciler.sources.scan import MAX_BLOCKED, Scanner
from reconciler.sources.walk import Progress

VALID = "{apiVersion: reconciler/v1, kind: ModelInstance, metadata: {name: a}, spec: {model: m}}"


async def scanned(directory: Path) -> dict[str, ManifestFile]:
    """Files of a directory, without the valid one that is added to it."""
    (directory / "good.yaml").write_text(VALID, "utf-8")
    snapshot = await Scanner(directory, "directory:x").scan()
    assert snapshot.unreadable is None
    found = {f.path: f for f in snapshot.files}
    assert found.pop("good.yaml").declared
    return found


def a_socket(path: Path) -> None:
    # macOS limits a socket's path to 104 bytes.
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "it is a FIFO, not a regular file"),
        (a_socket, "it is a socket, not a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "it is a device, not a regular file"),
        (lambda p: p.symlink_to("/dev/tty"), "it is a device, not a regular file"),
        (lambda p: p.mkdir(), "is a directory, not a file"),
        (lambda p: p.symlink_to("nowhere"), "it is a broken link"),
        (lambda p: p.symlink_to(p), "Too many levels of symbolic links"),
        (lambda p: os.truncate(os.open(p, os.O_CREAT | os.O_RDWR), 10**12), "larger than"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), "not valid YAML"),
        (lambda p: p.write_text("[" * 100_000, "utf-8"), "nested deeper"),
    ],
)
async def test_an_invalid_entry_is_an_error_of_its_path(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path / "x.yaml")
    (file,) = (await scanned(tmp_path)).values()
    (flaw,) = file.flaws
    assert (file.path, words in flaw.message) == ("x.yaml", True), flaw


async def test_unprintable_names_are_errors(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.yaml")).write_text(VALID, "utf-8")
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("", "utf-8")
    (tmp_path / "b\n.yaml").write_text(VALID, "utf-8")
    (tmp_path / "c\u2028.yaml").write_text(VALID, "utf-8")
    (tmp_path / "e\u202elmay.yaml").write_text(VALID, "utf-8")
    (tmp_path / "ü 日本.yaml").write_text("# nothing", "utf-8")
    (tmp_path / os.fsdecode(b"d\xff")).mkdir()
    found = await scanned(tmp_path)
    messages = {path: [f.message for f in file.flaws] for path, file in found.items()}
    assert messages == {
        "a\\udcff.yaml": ["its name is not UTF-8; rename it"],
        "b\\n.yaml": ["its name has control characters; rename it"],
        "c\\u2028.yaml": ["its name has control characters; rename it"],
        "d\\udcff": ["its name is not UTF-8; rename it"],
        "e\\u202elmay.yaml": ["its name has control characters; rename it"],
        "ü 日本.yaml": [],
    }


async def test_an_entry_without_read_permission_is_an_error_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate the refusal, since root bypasses permissions."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(VALID, "utf-8")
    (tmp_path / "b.yaml").write_text(VALID, "utf-8")

    def refuse(function: Callable[..., object], name: str) -> None:
        def refused(path: str, *arguments: object) -> object:
            if str(path).endswith(name):
                raise PermissionError(13, "Permission denied", path)
            return function(path, *arguments)

        monkeypatch.setattr(os, function.__name__, refused)

    refuse(os.scandir, "sub")
    refuse(os.open, "b.yaml")
    messages = {p: f.flaws[0].message for p, f in (await scanned(tmp_path)).items()}
    words = "cannot be read: Permission denied"
    assert messages == {"sub/": words, "b.yaml": words}


async def test_each_directory_is_scanned_once_despite_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    (tmp_path / "sub" / "a.yaml").write_text(VALID, "utf-8")
    assert list(await scanned(tmp_path)) == ["sub/a.yaml"]


async def test_a_broken_link_counts_as_an_unread_folder(tmp_path: Path) -> None:
    (tmp_path / "team").symlink_to(tmp_path / "not mounted")
    (file,) = (await scanned(tmp_path)).values()
    assert (file.valid, file.unfinished, file.covers("team/a.yaml")) == (True, True, True)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], threading.Event]]:
    """Make calls about a path hang until the event is set."""
    ends: dict[str, threading.Event] = {}
    stat = os.stat

    def slow(path: object, *arguments: object, **more: object) -> os.stat_result:
        if str(path) in ends:
            ends[str(path)].wait()
        return stat(path, *arguments, **more)  # type: ignore[arg-type]

    def hang(path: Path) -> threading.Event:
        return ends.setdefault(str(path), threading.Event())

    monkeypatch.setattr(os, "stat", slow)
    yield hang
    for end in ends.values():
        end.set()


async def test_a_hung_path_is_an_error_of_its_own_until_it_answers(
    tmp_path: Path, hung: Callable[[Path], threading.Event]
) -> None:
    (tmp_path / "good.yaml").write_text(VALID, "utf-8")
    (tmp_path / "slow.yaml").write_text(VALID.replace("name: a", "name: b"), "utf-8")
    (tmp_path / "dead").mkdir()
    ends = [hung(tmp_path / "slow.yaml"), hung(tmp_path / "dead")]
    scanner = Scanner(tmp_path, "directory:x", seconds=0.05)
    for _ in range(2):
        snapshot = await scanner.scan()
        messages = {f.path: [x.message for x in f.flaws] for f in snapshot.files}
        words = ["cannot be read: the file system does not answer"]
        assert messages == {"good.yaml": [], "slow.yaml": words, "dead/": words}
    threads = list(scanner._blocked.values())
    assert len(threads) == 2
    for end in ends:
        end.set()
    for thread in threads:
        thread.join()
    assert all(f.valid for f in (await scanner.scan()).files)


async def test_a_hung_directory_is_unreadable(
    tmp_path: Path, hung: Callable[[Path], threading.Event]
) -> None:
    hung(tmp_path)
    snapshot = await Scanner(tmp_path, "directory:x", seconds=0.05).scan()
    assert "the file system does not answer" in str(snapshot.unreadable)


async def test_hung_threads_are_bounded_in_number(
    tmp_path: Path, hung: Callable[[Path], threading.Event]
) -> None:
    for n in range(MAX_BLOCKED + 2):
        hung(tmp_path / f"{n}.yaml")
        (tmp_path / f"{n}.yaml").write_text(VALID, "utf-8")
    scanner = Scanner(tmp_path, "directory:x", seconds=0.02)
    for _ in range(2):
        assert "paths do not answer" in str((await scanner.scan()).unreadable)
    assert len(scanner._blocked) == MAX_BLOCKED


async def test_an_unchanged_file_is_not_parsed_again_and_if_old_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, opened = [], []
    names = ["new.yaml", "old.yaml"]

    def counted(path: str, data: bytes) -> ManifestFile:
        if path in names:  # threads of other tests may hang yet
            parsed.append(path)
        return read_file(path, data)

    def noted(path: str, about: os.stat_result) -> tuple[Identity, bytes]:
        if path.startswith(str(tmp_path)):
            opened.append(Path(path).name)
        return read_bytes(path, about)

    read_bytes = files.read_bytes
    monkeypatch.setattr(walks, "read_file", counted)
    monkeypatch.setattr(walks, "read_bytes", noted)
    for name in names:
        (tmp_path / name).write_text(VALID, "utf-8")
    monkeypatch.setattr(walks, "SETTLED_NS", -1)  # all are old enough
    scanner = Scanner(tmp_path, "directory:x")
    first = await scanner.scan()
    assert parsed == opened == names
    assert await scanner.scan() == first
    assert parsed == opened == names
    monkeypatch.setattr(walks, "SETTLED_NS", 10**18)  # no file is old enough
    (tmp_path / "new.yaml").write_text(VALID.replace("name: a", "name: b"), "utf-8")
    await scanner.scan()
    assert (parsed[2:], opened[2:]) == (["new.yaml"], ["new.yaml"])
    await scanner.scan()
    assert (parsed[3:], opened[3:]) == ([], ["new.yaml"])


async def test_a_change_that_keeps_size_and_times_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(VALID, "utf-8")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    scanner = Scanner(tmp_path, "directory:x")
    await scanner.scan()
    path.write_text(VALID.replace("name: a", "name: b"), "utf-8")
    os.utime(path, ns=times)
    (file,) = (await scanner.scan()).files
    assert [d.name for d in file.declared] == ["b"]


async def test_a_directory_with_too_many_files_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        (tmp_path / f"{n}.yaml").touch()
    for limit in ("MAX_FILES", "MAX_ENTRIES"):
        with monkeypatch.context() as patch:
            patch.setattr(walks, limit, 3)
            snapshot = await Scanner(tmp_path, "directory:x").scan()
        assert "it has more than 3" in str(snapshot.unreadable)


async def test_a_file_that_no_event_names_is_not_accessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "SETTLED_NS", -1)  # all are old enough
    for name in ("a.yaml", "b.yaml", "gone.yaml", "sub/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(VALID, "utf-8")
    scanner = Scanner(tmp_path, "directory:x")
    await scanner.scan()
    (tmp_path / "b.yaml").write_text("[", "utf-8")
    (tmp_path / "gone.yaml").unlink()
    (tmp_path / "sub" / "new.yaml").write_text(VALID, "utf-8")
    asked = []
    stat = os.stat

    def noted(path: object, *arguments: object, **more: object) -> os.stat_result:
        if str(path).startswith(str(tmp_path)):  # threads of other tests may hang yet
            asked.append(str(path).removeprefix(str(tmp_path)))
        return stat(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", noted)
    snapshot = await scanner.scan(frozenset({"b.yaml", "gone.yaml", "sub/new.yaml"}))
    valid = {f.path: f.valid for f in snapshot.files}
    assert valid == {"a.yaml": True, "b.yaml": False, "sub/c.yaml": True, "sub/new.yaml": True}
    assert sorted({*asked} - {"", "/sub"}) == ["/b.yaml", "/gone.yaml", "/sub/new.yaml"]
    assert await scanner.scan() == snapshot


async def test_a_renamed_or_changed_folder_is_scanned_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "SETTLED_NS", -1)  # all are old enough
    path = tmp_path / "sub" / "deep" / "a.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(VALID, "utf-8")
    scanner = Scanner(tmp_path, "directory:x")
    await scanner.scan()
    path.write_text("[", "utf-8")
    (file,) = (await scanner.scan(frozenset({"sub"}))).files
    assert not file.valid
    path.parent.rename(tmp_path / "old")
    path.parent.mkdir()
    path.write_text(VALID, "utf-8")
    assert [f.valid for f in (await scanner.scan(frozenset({"old", "sub/deep"}))).files] == [
        False,
        True,
    ]


PLACES = (
    "a.yaml",
    "b.yaml",
    "sub/a.yaml",
    "sub/deep/a.yaml",
    "sub",
    "sub/deep",
    "more",
    "notes.md",
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["write", "remove", "move", "link", "hard link", "mkdir"]),
        st.sampled_from(PLACES),
        st.sampled_from(PLACES),
    ),
    max_size=4,
)


def change(root: Path, kind: str, one: str, other: str) -> set[str]:
    """Change a directory; return the paths that its watch reports."""
    path, target = root / one, root / other
    here = path.exists() or path.is_symlink()
    if os.path.realpath(path.parent) != str(path.parent) or (path.is_symlink() and kind == "write"):
        return set()  # the change would affect another place
    if kind == "write" and not path.is_dir() and path.parent.is_dir():
        path.write_text(VALID.replace("name: a", f"name: n{os.urandom(4).hex()}"), "utf-8")
    elif kind == "remove" and here:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif kind == "move" and here and target.parent.is_dir() and not target.exists():
        with suppress(OSError):  # a move into itself
            path.rename(target)
        return {one, other}
    elif kind in ("mkdir", "link", "hard link") and not here and path.parent.is_dir():
        if kind == "mkdir":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(target)
        elif target.is_file():
            path.hardlink_to(target)
    return {one}


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(CHANGES, max_size=8))
def test_an_incremental_scan_finds_the_same_as_a_full_scan(
    rounds: list[list[tuple[str, str, str]]],
) -> None:
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(walks, "SETTLED_NS", -1)
        root, last = Path(made).resolve(), None
        directory = str(root)
        for changes in rounds:
            named = {path for one in changes for path in change(root, *one)}
            last = walk(directory, last, frozenset(), Progress(), frozenset(named))
            fresh = walk(directory, None, frozenset(), Progress())
            assert (last.files, last.empty_folders) == (fresh.files, fresh.empty_folders)

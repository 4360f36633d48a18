"""A hostile checkpoint affects neither the listing nor loads of other checkpoints."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models import looker
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache
from tests.models.hostile import DAMAGES, HARMLESS
from tests.support import eventually

GOOD, BAD = ModelRef("good"), ModelRef("bad")


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A directory with a healthy model."""
    shutil.copytree(models / "tiny/llama", tmp_path / "models/good")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limit: a busy machine must not count as a dead mount."""
    monkeypatch.setattr("reconciler.models.catalog.HANG_SECONDS", 60.0)


def refused(root: Path, *names: str) -> dict[str, str]:
    """Message by name, checked to be the same in each lookup; each also finds `good`."""
    catalog = Catalog([Directory(root)])
    refs = {name: ModelRef(name) for name in names}
    messages = {}
    for _ in range(2):
        found = catalog.find_all([GOOD, *refs.values()])
        listed = {model.key: model.facts for model in catalog.listed()}
        assert isinstance(found[GOOD], Checkpoint)
        assert isinstance(listed["good"], Checkpoint)
        for name, ref in refs.items():
            problem = found[ref]
            assert isinstance(problem, Problem), name
            assert problem.reason is Reason.INVALID_CHECKPOINT, name
            assert listed[name] == problem
            assert len(msgspec.json.encode(problem)) < 2000
            assert problem.message.isprintable(), name
            assert str(root / name) in problem.message
            messages[name] = problem.message
    with pytest.raises(LoadError) as raised:
        catalog.find(ModelRef(names[0]))
    assert raised.value.problem.message == messages[names[0]]
    return messages


def test_each_kind_of_damage_affects_only_its_checkpoint(root: Path) -> None:
    for name, damage in DAMAGES.items():
        bad = root / name.replace("/", "-")
        shutil.copytree(root / "good", bad)
        damage(bad)
    refused(root, *(name.replace("/", "-") for name in DAMAGES))


def test_damage_to_files_that_mlx_lm_does_not_read_is_harmless(root: Path) -> None:
    for name, damage in HARMLESS.items():
        shutil.copytree(root / "good", root / name)
        damage(root / name)
    for model in Catalog([Directory(root)]).listed():
        assert isinstance(model.facts, Checkpoint), model


@pytest.mark.parametrize(
    "error", [MemoryError, RecursionError, KeyError, OverflowError, SystemExit]
)
def test_any_exception_affects_only_its_checkpoint(
    root: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "good", root / "bad")
    monkeypatch.setattr("reconciler.models.catalog.is_adapter", raising("bad", error("x" * 10**6)))
    assert error.__name__ in refused(root, "bad")["bad"]


def raising(name: str, error: BaseException) -> Callable[[Path], bool]:
    def function(path: Path) -> bool:
        if path.name == name:
            raise error
        return False

    return function


@pytest.fixture
def nobody() -> Iterator[None]:
    """Run as an unprivileged user, since root bypasses permissions."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def enterable(root: Path) -> None:
    """Make the test's directories searchable for another user."""
    for folder in (root, *root.parents):
        if folder.owner() == root.owner() and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)


def test_a_directory_without_search_permission_is_named(root: Path, request: Any) -> None:
    shutil.copytree(root / "good", root / "bad")
    (root / "bad").chmod(0)
    enterable(root)
    request.getfixturevalue("nobody")
    try:
        assert "Permission denied" in refused(root, "bad")["bad"]
    finally:
        (os.seteuid(0) if os.getuid() == 0 else None)
        (root / "bad").chmod(0o755)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_without_read_permission_is_named(root: Path, file: str, request: Any) -> None:
    bad = shutil.copytree(root / "good", root / "bad")
    (bad / file).chmod(0)
    enterable(root)
    request.getfixturevalue("nobody")
    message = refused(root, "bad")["bad"]
    assert "Permission denied" in message
    assert file in message


def test_a_directory_that_vanishes_while_it_is_read_does_not_affect_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "good", root / "bad")

    def vanish(path: Path) -> bool:
        if path.name == "bad":
            shutil.rmtree(path)
        return False

    monkeypatch.setattr("reconciler.models.catalog.is_adapter", vanish)
    catalog = Catalog([Directory(root)])
    found = catalog.find_all([GOOD, BAD])
    assert isinstance(found[GOOD], Checkpoint)
    assert isinstance(found[BAD], Problem)
    assert [m.key for m in catalog.listed()] == ["good"]


# -- hung calls ----------------------------------------------------------------------------


class DeadMount:
    """Make calls on a path hang until the test ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0
        self.alive = threading.Event()

    def touch(self, path: object) -> None:
        if str(path).startswith(str(self.path)):
            self.calls += 1
            assert self.alive.wait(60)


@pytest.fixture
def dead(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadMount]:
    mount = DeadMount(root / "bad")
    monkeypatch.setattr("reconciler.models.catalog.HANG_SECONDS", 1.0)
    for name in ("stat", "scandir", "open"):
        function = getattr(os, name)

        def call(path: Any, *args: Any, _function: Any = function, **kwargs: Any) -> Any:
            mount.touch(path)
            return _function(path, *args, **kwargs)

        monkeypatch.setattr(os, name, call)
    yield mount
    mount.alive.set()


def test_a_dead_mount_times_out_and_is_accessed_only_once(
    root: Path, dead: DeadMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.models.catalog.PATIENT_SECONDS", 1.1)
    shutil.copytree(root / "good", root / "late")
    (root / "bad").mkdir()
    before = set(threading.enumerate())
    catalog = Catalog([Directory(root), HubCache(root / "none")])
    for _ in range(5):
        found = catalog.find_all([GOOD, BAD, ModelRef("late"), ModelRef("no/such")])
        assert [type(f) for f in found.values()] == [Checkpoint, Problem, Checkpoint, Problem]
        problem = found[BAD]
        assert isinstance(problem, Problem)
        assert (problem.reason, problem.permanent) == (Reason.INVALID_CHECKPOINT, False)
        assert "does not answer" in problem.message
        listed = {m.key: m.facts for m in catalog.listed()}
        assert listed["bad"] == problem
        assert isinstance(listed["good"], Checkpoint)
        with pytest.raises(LoadError, match="does not answer"):
            catalog.find(ModelRef("bad/of-a-publisher"))
    assert dead.calls == 1
    eventually(lambda: len(set(threading.enumerate()) - before) == 1, lambda: "more than one hangs")


def test_an_unresponsive_directory_does_not_count_as_an_absent_model(
    root: Path, dead: DeadMount
) -> None:
    dead.path.mkdir()
    catalog = Catalog([Directory(root / "bad"), Directory(root)])
    found = catalog.find_all([GOOD, ModelRef("elsewhere")])
    assert isinstance(found[GOOD], Checkpoint)
    unknown = found[ModelRef("elsewhere")]
    assert isinstance(unknown, Problem)
    assert unknown.reason is Reason.INVALID_CHECKPOINT
    assert str(root / "bad") in {m.key for m in catalog.listed()}


def test_a_recovered_mount_is_read(root: Path, dead: DeadMount) -> None:
    shutil.copytree(root / "good", root.parent / "copy")
    (root / "bad").symlink_to(root.parent / "copy")
    catalog = Catalog([Directory(root)])
    assert isinstance(catalog.find_all([BAD])[BAD], Problem)
    dead.alive.set()
    assert catalog.find(BAD).path == str((root.parent / "copy").resolve())


def test_a_load_waits_for_a_sleeping_disk(root: Path, dead: DeadMount) -> None:
    shutil.copytree(root / "good", root.parent / "copy")
    (root / "bad").symlink_to(root.parent / "copy")
    threading.Timer(1.5, dead.alive.set).start()
    assert Catalog([Directory(root)]).find(BAD).path == str((root.parent / "copy").resolve())


def test_several_hung_paths_share_one_timeout() -> None:
    alive = threading.Event()

    def function(path: Path) -> int:
        if int(path.name) % 2:
            assert alive.wait(60)
        return int(path.name)

    paths = [Path(str(n)) for n in range(20)]
    results = looker.Looker().each(function, paths, 1.2)
    alive.set()
    assert [r for r in results if isinstance(r, int)] == list(range(0, 20, 2))
    assert sum(isinstance(r, looker.NoAnswerError) for r in results) == 10


def test_a_hung_path_is_not_accessed_again_until_it_answers() -> None:
    alive, calls = threading.Event(), []

    def function(path: Path) -> None:
        calls.append(path)
        assert alive.wait(60)

    one, path = looker.Looker(), Path("x")
    for _ in range(3):
        (result,) = one.each(function, [path], 0.05)
        assert isinstance(result, looker.NoAnswerError)
    alive.set()
    assert one.each(function, [path], 60) == [None]
    assert calls == [path, path]

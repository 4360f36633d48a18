"""Manifest files changed by people and tools; each test names a trap known from other projects."""

import urllib.parse
from typing import Any

from tests.support import Daemon, Home, conditions

BROKEN = "apiVersion: reconciler/v1\nkind: ModelInstance\nmetadata: {name: a}\nspec:\n  modle: x\n"


def document(name: str) -> str:
    lines = [
        "apiVersion: reconciler/v1",
        "kind: ModelInstance",
        f"metadata: {{name: {name}}}",
        "spec: {model: tiny/llama}",
    ]
    return "\n".join(lines) + "\n"


def actions(daemon: Daemon, name: str) -> list[str]:
    """Actions begun for a record, from the events."""
    events = daemon.events(f"follow=false&name={urllib.parse.quote(name)}")
    return [e["reason"] for e in events if e["type"] == "phase" and e["reason"] == "warm_up"]


def file(daemon: Daemon, path: str) -> Any:
    (source,) = daemon.get("/api/v1/sources")["sources"]
    return next((f for f in source["files"] if f["path"] == path), None)


def seen(daemon: Daemon, path: str) -> None:
    """Wait until the directory has been read after `path` was written.

    Writes a manifest for another node, which changes nothing but is listed.
    """
    text = "apiVersion: v1\nkind: Service\n"
    (daemon.home.manifests / path).write_text(text, "utf-8")
    daemon.until(lambda: file(daemon, path) is not None)


def test_several_documents_in_a_file_yml_json_and_subdirectories_are_read(shared: Daemon) -> None:
    home = shared.home.manifests
    (home / "team/search").mkdir(parents=True, exist_ok=True)
    several = document("several-a") + "---\n" + document("several-b") + "---\n---\n"
    (home / "team/search/several.yml").write_text(several, "utf-8")
    json = '{"apiVersion": "reconciler/v1", "kind": "ModelInstance", '
    json += '"metadata": {"name": "several-c"}, "spec": {"model": "tiny/llama"}}'
    (home / "several.json").write_text(json, "utf-8")
    records = [shared.ready(f"several-{letter}") for letter in "abc"]
    assert [(r["file"], r["line"]) for r in records] == [
        ("team/search/several.yml", 1),
        ("team/search/several.yml", 6),
        ("several.json", 1),
    ]


def test_renaming_and_moving_a_file_reloads_nothing(shared: Daemon) -> None:
    path = shared.home.write(
        "renamed-a.yaml", name="renamed-a", model="tiny/llama", context_length=100
    )
    before = shared.ready("renamed-a")
    (shared.home.manifests / "team").mkdir(exist_ok=True)
    for target in ("renamed-renamed.yml", "team/renamed-moved.yaml"):

        def is_there(record: Any, target: str = target) -> bool:
            return bool(record["file"] == target)

        path = path.rename(shared.home.manifests / target)
        after = shared.eventually("renamed-a", is_there)
        assert after | {"file": None} == before | {"file": None}
    assert actions(shared, "renamed-a") == ["warm_up"]


def test_an_atomic_rename_save_is_one_change_and_reloads_only_for_another_spec(
    shared: Daemon,
) -> None:
    path = shared.home.write("saved-a.yaml", name="saved-a", model="tiny/llama", context_length=100)
    before = shared.ready("saved-a")
    for _ in range(3):
        temporary = path.with_name(".a.yaml.tmp123")
        temporary.write_bytes(path.read_bytes())
        temporary.replace(path)
    seen(shared, "saved-then.yaml")
    assert shared.ready("saved-a") == before
    temporary.write_bytes(path.read_bytes().replace(b"100", b"200"))
    temporary.replace(path)
    assert shared.ready("saved-a", 2)["status"]["config"]["context_length"] == 200
    assert len(actions(shared, "saved-a")) == 2


def test_temporary_files_of_editors_are_neither_loaded_nor_reported(shared: Daemon) -> None:
    home = shared.home.manifests
    shared.home.write("edited-a.yaml", name="edited-a", model="tiny/llama")
    for name in (
        ".edited.yaml.swp",
        ".edited.yaml.swx",
        "edited.yaml~",
        "4913",
        "#edited.yaml#",
        ".#edited.yaml",
        "edited.yaml.bak",
    ):
        (home / name).write_text("half: [", "utf-8")
    shared.ready("edited-a")
    seen(shared, "edited-then.yaml")
    (source,) = shared.get("/api/v1/sources")["sources"]
    files = {f["path"] for f in source["files"]}
    assert {f for f in files if "edited" in f} == {"edited-a.yaml", "edited-then.yaml"}


def test_a_file_that_appears_half_written_is_followed_once_it_is_complete(shared: Daemon) -> None:
    text = document("half-a")
    path = shared.home.manifests / "half-a.yaml"
    path.write_text(text[:50], "utf-8")
    shared.until(lambda: file(shared, "half-a.yaml") is not None)
    assert shared.request("GET", "/api/v1/records/half-a")[0] == 404
    path.write_text(text, "utf-8")
    shared.ready("half-a")


def test_a_file_rewritten_in_two_parts_keeps_its_declarations(shared: Daemon) -> None:
    path = shared.home.write(
        "halves-a.yaml", name="halves-a", model="tiny/llama", context_length=100
    )
    before = shared.ready("halves-a")
    text = path.read_text("utf-8")
    path.write_text(text[: text.index("spec")], "utf-8")
    shared.eventually("halves-a", lambda r: bool(r["source_errors"]))
    path.write_text(text, "utf-8")
    shared.eventually("halves-a", lambda r: not r["source_errors"])
    assert shared.ready("halves-a") == before
    assert actions(shared, "halves-a") == ["warm_up"]


def test_symlinks_placed_by_the_user_are_followed(shared: Daemon) -> None:
    elsewhere = shared.home.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked-a.yaml").write_text(document("linked-a"), "utf-8")
    (elsewhere / "again").symlink_to(shared.home.manifests)  # a cycle
    (shared.home.root / "linked-b.yaml").write_text(document("linked-b"), "utf-8")
    (shared.home.manifests / "linked-b.yaml").symlink_to(shared.home.root / "linked-b.yaml")
    (shared.home.manifests / "linked").symlink_to(elsewhere)
    assert shared.ready("linked-a")["file"] == "linked/linked-a.yaml"
    assert shared.ready("linked-b")["file"] == "linked-b.yaml"


def test_a_directory_that_vanishes_unloads_nothing_and_is_followed_once_it_is_back(
    shared: Daemon,
) -> None:
    home = shared.home
    home.write("away-a.yaml", name="away-a", model="tiny/llama", context_length=100)
    before = shared.ready("away-a")
    away = home.manifests.rename(home.root / "away")
    held = shared.eventually("away-a", lambda r: bool(r["source_errors"]))
    assert str(home.manifests) in held["source_errors"][0]["message"]
    assert held["status"] == before["status"]
    away.rename(home.manifests)
    shared.eventually("away-a", lambda r: not r["source_errors"])
    home.write("away-a.yaml", name="away-a", model="tiny/llama", context_length=200)
    shared.ready("away-a", 2)


def test_the_same_name_in_two_files_is_reported_and_what_is_loaded_stays(shared: Daemon) -> None:
    home = shared.home
    home.write("twice-a.yaml", name="twice-a", model="tiny/llama", context_length=100)
    before = shared.ready("twice-a")
    second = home.write("twice-b.yaml", name="twice-a", model="tiny/qwen3")
    flagged = shared.eventually("twice-a", lambda r: bool(r["source_errors"]))
    message = flagged["source_errors"][0]["message"]
    assert "twice-a.yaml:1" in message
    assert "twice-b.yaml:1" in message
    assert flagged["status"] == before["status"]
    second.unlink()
    shared.eventually("twice-a", lambda r: not r["source_errors"])
    assert shared.ready("twice-a")["status"] == before["status"]


def test_one_bad_file_blocks_no_other(shared: Daemon) -> None:
    (shared.home.manifests / "bad-yaml.yaml").write_text("a: [", "utf-8")
    (shared.home.manifests / "bad-binary.yaml").write_bytes(b"\xff\x00")
    shared.home.write("bad-good.yaml", name="bad-good", model="tiny/llama")
    shared.ready("bad-good")
    assert (file(shared, "bad-yaml.yaml")["valid"], file(shared, "bad-binary.yaml")["valid"]) == (
        False,
        False,
    )


def test_a_change_reloads_only_the_changed_record(shared: Daemon) -> None:
    names = ["alone-a", "alone-b", "alone-c"]
    for name in names:
        shared.home.write(f"{name}.yaml", name=name, model="tiny/llama", context_length=100)
    before = [shared.ready(name) for name in names]
    shared.home.write("alone-b.yaml", name="alone-b", model="tiny/llama", context_length=200)
    shared.ready("alone-b", 2)
    assert [shared.ready(name) for name in (names[0], names[2])] == [before[0], before[2]]
    assert [len(actions(shared, name)) for name in names] == [1, 2, 1]


def test_deleting_the_last_manifest_takes_effect_while_other_files_remain(shared: Daemon) -> None:
    path = shared.home.write("last-a.yaml", name="last-a", model="tiny/llama")
    shared.ready("last-a")
    path.unlink()
    shared.gone("last-a")


def test_a_removal_beside_a_new_invalid_file_is_held_and_reported(shared: Daemon) -> None:
    path = shared.home.write("held-a.yaml", name="held-a", model="tiny/llama")
    shared.ready("held-a")
    renamed = shared.home.manifests / "held-renamed.yaml"
    # A failed edit, and a rename.
    path.write_text(BROKEN, "utf-8")
    path.rename(renamed)
    held = shared.eventually("held-a", lambda r: bool(r["source_errors"]))
    assert conditions(held)["Ready"] == "True"
    assert "held-renamed.yaml" in held["source_errors"][0]["message"]
    (source,) = shared.get("/api/v1/sources")["sources"]
    assert set(source["held"]) == {"held-a"}
    renamed.unlink()
    shared.gone("held-a")


def test_changes_made_during_watch_setup_are_detected_also_behind_a_symlink(home: Home) -> None:
    link = home.root / "link"
    link.symlink_to(home.manifests)
    home.manifests = link
    paths = [home.manifests / f"{n}.yaml" for n in range(20)]
    with Daemon(home) as daemon:
        for n, path in enumerate(paths):
            path.write_text(document(f"n{n}"), "utf-8")
        for n in range(len(paths)):
            daemon.ready(f"n{n}")
        home.write("a.yaml", name="a", model="tiny/llama", context_length=100)
        record = daemon.ready("a")
        home.write("a.yaml", name="a", model="tiny/llama", context_length=200)
        daemon.ready("a", 2)
    assert record["owner"] == f"directory:{link}"

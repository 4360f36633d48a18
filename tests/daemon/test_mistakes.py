"""Errors in manifests: they unload nothing, other files are followed, every view reports them."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import main
from tests.daemon.test_files import document, file
from tests.support import Daemon, Home


def command(daemon: Daemon, *words: str) -> Result:
    """Run a command against this daemon."""
    return CliRunner().invoke(main, words, env={"RECONCILER_URL": daemon.url})


def source(daemon: Daemon) -> Any:
    (found,) = daemon.get("/api/v1/sources")["sources"]
    return found


def test_broken_files_harm_no_others_and_every_view_reports_them(daemon: Daemon) -> None:
    home = daemon.home.manifests
    os.mkfifo(home / "fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(home / "socket.yaml"))
    (home / "device.yaml").symlink_to("/dev/zero")
    (home / "loop.yaml").symlink_to("loop.yaml")
    (home / "nowhere.yaml").symlink_to("/nowhere/at/all")
    (home / "folder.yaml").mkdir()
    (home / os.fsdecode(b"name\xff.yaml")).write_text("", "utf-8")
    hexadecimal = document("a").replace("{model:", f"{{priority: 0x{'f' * 4000}, model:")
    (home / "digits.yaml").write_text(hexadecimal, "utf-8")
    keys = ", ".join(f"k{n}: 1" for n in range(40_000))
    (home / "keys.yaml").write_text(document("a").replace("{model:", f"{{{keys}, model:"), "utf-8")
    (home / "brackets.yaml").write_text("[" * 100_000, "utf-8")
    bomb = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (home / "bomb.yaml").write_text(f"a0: &a0 [x, x]\n{bomb}", "utf-8")
    (home / "huge.yaml").touch()
    os.truncate(home / "huge.yaml", 40 * 10**9)
    daemon.home.write("good.yaml", name="good", model="tiny/llama")
    daemon.ready("good")
    invalid = {f["path"] for f in source(daemon)["files"] if not f["valid"]}
    assert invalid == {
        *("fifo.yaml", "socket.yaml", "device.yaml", "loop.yaml", "nowhere.yaml", "folder.yaml"),
        *("name\\udcff.yaml", "digits.yaml", "keys.yaml", "brackets.yaml", "bomb.yaml"),
        "huge.yaml",
    }
    assert daemon.get("/health")["status"] == "ok"

    # `validate` prints the same messages offline.
    checked = command(daemon, "validate", str(home))
    assert checked.exit_code == 1
    for one in source(daemon)["files"]:
        for error in one["errors"]:
            place = f"{home}/{one['path']}:{error['line']}:{error['column']}"
            assert f"{place}: {error['message']}\n" in checked.output
    named = command(daemon, "validate", str(home / "fifo.yaml"))
    assert (named.exit_code, "it is a FIFO" in named.output) == (1, True)

    for words, code in ((["plan"], 1), (["get"], 0), (["sources"], 0)):
        result = command(daemon, *words)
        assert result.exit_code == code
        assert "fifo.yaml:1:1: cannot be read: it is a FIFO" in result.output, words


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    with Daemon(Home(tmp_path_factory.mktemp("home"), models)) as daemon:
        yield daemon


@pytest.fixture
def three(following: Daemon) -> Daemon:
    """The daemon, reset to follow a, b and c in one file and d in another."""
    home = following.home
    (home.manifests / "e.yaml").unlink(missing_ok=True)
    (home.manifests / "all.yaml").write_text("---\n".join(map(document, "abc")), "utf-8")
    (home.manifests / "d.yaml").write_text(document("d"), "utf-8")
    following.until(lambda: settled(following))
    for name in "abcd":
        following.ready(name)
    return following


def settled(daemon: Daemon) -> bool:
    """True if the files are those of `three`, without errors or held records."""
    found = source(daemon)
    files = {one["path"]: one["valid"] for one in found["files"]}
    names = {record["name"] for record in daemon.get("/api/v1/records")["records"]}
    clean = not (found["held"] or found["unconfirmed"] or found["not_followed"])
    return clean and files == {"all.yaml": True, "d.yaml": True} and names == set("abcd")


def test_a_file_that_silently_stops_declaring_keeps_what_is_loaded(three: Daemon) -> None:
    path = three.home.manifests / "all.yaml"

    def held(text: str, words: str) -> None:
        path.write_text(text, "utf-8")
        three.until(lambda: words in str(source(three)))
        (three.home.manifests / "d.yaml").touch()
        assert three.loaded() == set("abcd")

    held("", "all.yaml exists but is empty")
    held(document("a") + "---\n", "all.yaml ends after `---`")
    held("apiVersion: v1\nkind: Service\n", "all.yaml exists but no longer declares anything")
    held(document("a").replace("/v1", "/v2"), "reconciler/v2")
    held(document("a").replace("reconciler/v1", "other/v1"), "other/v1")
    checked = command(three, "validate", str(path))
    assert (checked.exit_code, "apiVersion must be" in checked.output) == (1, True)
    path.write_text("", "utf-8")
    three.until(lambda: "is empty" in str(source(three)))
    assert command(three, "confirm").exit_code == 0
    for name in "abc":
        three.gone(name)
    assert three.loaded() == {"d"}


def test_removing_more_than_half_of_a_directory_waits_for_confirmation(three: Daemon) -> None:
    (three.home.manifests / "all.yaml").unlink()
    three.until(lambda: source(three)["unconfirmed"] == ["a", "b", "c"])
    assert "it would unload 3 of 4 loaded records" in source(three)["held"]["a"]
    assert three.loaded() == set("abcd")
    assert command(three, "confirm").exit_code == 0
    for name in "abc":
        three.gone(name)


def test_a_duplicate_name_is_reported_everywhere(three: Daemon) -> None:
    home = three.home.manifests
    (home / "e.yaml").write_text(document("d"), "utf-8")
    words = "declared more than once: d.yaml:1, e.yaml:1"
    three.until(lambda: words in str(source(three)))
    for command_, code in ((["plan"], 1), (["get"], 0), (["get", "d"], 0), (["sources"], 0)):
        result = command(three, *command_)
        assert (result.exit_code, words in result.output) == (code, True), result.output
    assert [e["message"] for e in three.get("/api/v1/plan")["source_errors"]] == [f"d: {words}"]
    checked = command(three, "validate", str(home))
    assert (checked.exit_code, "'d' is declared more than once" in checked.output) == (1, True)


def test_sighup_syncs_every_source(home: Home, tmp_path: Path) -> None:
    """Uses a file behind a symlink, whose changes cause no events."""
    (tmp_path / "elsewhere.yaml").write_text(document("a"), "utf-8")
    (home.manifests / "a.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with Daemon(home) as daemon:
        daemon.ready("a")
        changed = document("a").replace("tiny/llama", "tiny/llama, config: {context_length: 77}")
        (tmp_path / "elsewhere.yaml").write_text(changed, "utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.ready("a", 2)["status"]["config"]["context_length"] == 77
        assert file(daemon, "a.yaml")["valid"]

"""Manual pages: generated from the commands, in valid roff."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import COMMANDS, main
from reconciler.cli.man import text


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["man", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pages") / "man1"
    printed("--write", str(directory))
    return directory


def test_a_page_has_the_text_of_the_help() -> None:
    page = printed("load")
    for part in (
        '.TH "RECONCILER-LOAD" "1"',
        "reconciler\\-load \\- Load MODEL",
        "[OPTIONS] MODEL",
        ".B \\-\\-alias TEXT\nAdditional name of the instance in requests; repeatable.",
        ".SH EXAMPLES",
        "reconciler load openai/gpt\\-oss\\-20b",
        ".SH SEE ALSO\nreconciler(1)",
    ):
        assert part in page


def test_every_command_and_group_has_a_page(pages: Path) -> None:
    names = {path.name for path in pages.iterdir()}
    assert "reconciler.1" in names
    assert {f"reconciler-{name}.1" for group in COMMANDS.values() for name in group} <= names
    assert {"reconciler-fleet-status.1", "reconciler-service-install.1"} <= names
    assert "reconciler\\-fleet\\-status(1)" in printed("fleet")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_reports_no_problem(pages: Path) -> None:
    files = sorted(map(str, pages.iterdir()))
    command = ["groff", "-man", "-Tascii", "-ww", "-z", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_no_layout_mark_of_the_help_is_left(pages: Path) -> None:
    assert all("\b" not in path.read_text("utf-8") for path in pages.iterdir())


@pytest.mark.parametrize(
    ("words", "roff"),
    [("plain", "plain"), ("-n", "\\-n"), (".SH", "\\&.SH"), ("'x", "\\&'x"), ("a\\b", "a\\eb")],
)
def test_no_text_is_a_request_or_an_escape(words: str, roff: str) -> None:
    assert text(words) == roff


def test_invalid_commands_are_errors(tmp_path: Path) -> None:
    for arguments, message in (
        (("lod",), "there is no command 'lod'"),
        (("load", "--write", str(tmp_path)), "leave COMMAND out"),
    ):
        result = CliRunner().invoke(main, ["man", *arguments])
        assert result.exit_code == 64
        assert message in result.output
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["man", "--write", str(tmp_path / "file" / "inner")])
    assert result.exit_code == 1
    assert "cannot write to" in result.output

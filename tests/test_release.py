"""The release script, run in a temporary repository."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repositories import ENVIRONMENT, Origin
from tools import release

DAY = dt.date(2026, 12, 24)

CHANGELOG = """\
# Changelog

## Unreleased

- A change.

## 0.1.0 (2026-01-01)

- The first version.
"""

PROJECT = '[project]\nname = "mlx-reconciler"\nversion = "0.1.0"\n'


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """Repository with one release and one unreleased change, as the working directory."""
    repository = Origin(tmp_path / "repository")
    repository.write("CHANGELOG.md", CHANGELOG)
    repository.write("pyproject.toml", PROJECT)
    repository.write(".gitignore", "dist/\n")
    repository.commit()
    repository.git("tag", "v0.1.0")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repository.root)
    return repository


def test_unreleased_changes_become_a_section_of_the_version() -> None:
    text, notes = release.released(CHANGELOG, "0.2.0", DAY)
    assert notes == "## 0.2.0 (2026-12-24)\n\n- A change.\n"
    assert text == CHANGELOG.replace("- A change.\n", f"{notes}")
    text, notes = release.released("## Unreleased\n- First.\n", "0.1.0", DAY)
    assert text == f"## Unreleased\n\n{notes}"


def test_a_dry_run_prints_the_changes_and_writes_nothing(
    repository: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    before = repository.git("rev-parse", "HEAD")
    assert release.main(["0.2.0", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "v0.2.0" in printed
    assert "- A change." in printed
    assert "The first version" not in printed
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("rev-parse", "HEAD") == before
    assert repository.git("tag") == "v0.1.0"


def test_a_release_is_built_committed_and_tagged(
    repository: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str]) -> None:
        assert command[:3] == [sys.executable, "-m", "build"]
        assert 'version = "0.2.0"' in Path("pyproject.toml").read_text("utf-8")
        Path("dist").mkdir()
        Path("dist/mlx_reconciler-0.2.0.tar.gz").write_text("packed", "utf-8")

    monkeypatch.setattr(release, "run", run)
    assert release.main(["0.2.0"]) == 0
    assert "git push" in capsys.readouterr().out
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("show", "v0.2.0:pyproject.toml") == PROJECT.replace("0.1", "0.2").strip()
    assert "## Unreleased\n\n## 0.2.0 (" in repository.git("show", "v0.2.0:CHANGELOG.md")
    assert "- A change." in repository.git("tag", "--list", "--format=%(contents)", "v0.2.0")
    assert "- A change." in Path("dist/CHANGES-0.2.0.md").read_text("utf-8")
    sums = Path("dist/SHA256SUMS-0.2.0").read_text("utf-8")
    assert sums.endswith("  mlx_reconciler-0.2.0.tar.gz\n")
    assert release.main(["0.2.0"]) == 1
    assert "not newer" in capsys.readouterr().err


def test_a_failed_build_leaves_the_repository_unchanged(
    repository: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str]) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(release, "run", run)
    assert release.main(["0.2.0"]) == 1
    assert "cannot be built" in capsys.readouterr().err
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("tag") == "v0.1.0"


@pytest.mark.parametrize(
    ("version", "message"),
    [("next", "not a version"), ("0.1.0", "not newer"), ("0.0.9", "not newer")],
)
@pytest.mark.usefixtures("repository")
def test_a_wrong_version_is_refused(
    version: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main([version, "--dry-run"]) == 1
    assert message in capsys.readouterr().err


def test_a_release_requires_changes_and_a_clean_tree(
    repository: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write("CHANGELOG.md", CHANGELOG.replace("- A change.\n", ""))
    assert release.main(["0.2.0", "--dry-run"]) == 1
    assert "commit them first" in capsys.readouterr().err
    repository.commit()
    assert release.main(["0.2.0", "--dry-run"]) == 1
    assert "no changes under" in capsys.readouterr().err

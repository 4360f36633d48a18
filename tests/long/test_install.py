"""The sdist and the wheel: each is installed alone and runs its first commands."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from reconciler import __version__

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Output of a program that must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of this tree, and the wheel built from that sdist."""
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, Path.cwd())
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_the_first_commands_of_an_installed_package_run(
    packages: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=True)
    print_folder = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(run(python, "-c", print_folder).strip())
    # Dependencies come from this environment; its editable packages are not importable this way.
    (folder / "dependencies.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    run(python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", packages[kind])
    where = run(python, "-c", "import reconciler; print(reconciler.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(folder)
    command = python.with_name("reconciler")
    assert run(command, "version", cwd=tmp_path).strip() == f"reconciler {__version__}"
    assert "mlx: mlx" in run(command, "doctor", cwd=tmp_path)
    assert "done" in run(command, "demo", cwd=tmp_path).splitlines()[-1]


def test_the_sdist_contains_every_file_of_the_repository(packages: dict[str, Path]) -> None:
    with tarfile.open(packages["sdist"]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files").splitlines()
    assert len(tracked) > 500
    links = {path for path in tracked if Path(path).is_symlink()}
    assert {path for path in tracked if not path.startswith(".ci/")} - packed == links

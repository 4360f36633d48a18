"""Child processes, started among foreign files and with secrets in the environment."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reconciler.host import children
from tests import support
from tests.support import Daemon, Home, environment

SHADOWS = ("random", "token", "mlx", "aiohttp", "msgspec", "structlog", "transformers", "tomllib")

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "HUGGING_FACE_HUB_TOKEN": "hf_secret",
    "OPENAI_API_KEY": "sk-secret",
    "RECONCILER_API_TOKEN": "our-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
    "DATABASE_URL": "postgres://user:secret@host",
}


def shadow(directory: Path) -> None:
    """Create modules that exit when imported, and a foreign `reconciler/`."""
    directory.mkdir(exist_ok=True)
    for name in SHADOWS:
        (directory / f"{name}.py").write_text(f"raise SystemExit('shadowed by {name}')", "utf-8")
    (directory / "reconciler").mkdir()
    (directory / "reconciler/__init__.py").write_text("raise SystemExit('not ours')", "utf-8")


def test_foreign_modules_are_not_imported_and_workers_get_no_secret(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(tmp_path / "here")
    home = Home(tmp_path / "home", models)
    shadow(home.root)
    monkeypatch.chdir(tmp_path / "here")
    for key, value in (SECRETS | {"HOME": str(home.root)}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(support.Daemon, "command", children.python("reconciler", "serve"))
    with Daemon(home) as daemon:
        daemon.load({"model": "tiny/llama", "context_length": 64})
        answer = daemon.request(
            "POST", "/v1/completions", {"model": "tiny/llama", "prompt": "hi", "max_tokens": 1}
        )
        assert answer[0] == 200
        (worker,) = daemon.workers()
        seen = psutil.Process(worker.pid).environ()
    assert not SECRETS.keys() & seen.keys()
    assert not [value for value in seen.values() if "secret" in value]


def test_the_command_is_not_shadowed_by_files_in_the_working_directory(tmp_path: Path) -> None:
    for name in ("random", "token", "mlx", "aiohttp", "click", "email"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')", "utf-8")
    command = [sys.executable, "-m", "reconciler", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_download_gets_only_the_variables_of_the_hub_and_proxy() -> None:
    found = children.for_fetch(SECRETS | {"https_proxy": "http://p", "HF_ENDPOINT": "http://h"})
    assert found == {
        "HF_TOKEN": "hf_secret",
        "HUGGING_FACE_HUB_TOKEN": "hf_secret",
        "https_proxy": "http://p",
        "HF_ENDPOINT": "http://h",
    }


def test_a_worker_gets_the_variables_that_it_needs() -> None:
    needed = {"HOME": "/h", "PATH": "/bin", "LC_ALL": "C", "MLX_ENABLE_TF32": "0", "TMPDIR": "/t"}
    assert children.for_worker(SECRETS | needed) == needed


@pytest.mark.parametrize(
    ("given", "left"),
    [("", None), (".", None), ("/a:", "/a"), (":/a:b:/c", "/a:/c")],
)
def test_relative_entries_of_pythonpath_are_dropped(given: str, left: str | None) -> None:
    assert children.without_relative_paths({"PYTHONPATH": given}).get("PYTHONPATH") == left


def test_a_child_imports_nothing_from_its_working_directory(tmp_path: Path) -> None:
    shadow(tmp_path)
    for module in ("json.tool", "reconciler.models.fetch"):
        command = children.python(module, "/nowhere/at/all")
        done = subprocess.run(
            command,
            cwd=tmp_path,
            input="{}",
            capture_output=True,
            text=True,
            check=False,
            env=children.without_relative_paths(environment(PYTHONPATH=".")),
        )
        assert "shadowed" not in done.stderr
        assert "not ours" not in done.stderr

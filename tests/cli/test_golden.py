"""Output and exit code of every command, with a real daemon.

`golden.txt` is a terminal session, run from top to bottom. Values that vary between runs are
replaced by `<time>`, `<age>` and so on. `GOLDEN=write pytest tests/cli/test_golden.py` rewrites it;
review the diff before you keep it.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import COMMANDS, EXIT_CODES, main
from reconciler.demo import DEMO_MODEL
from tests.repositories import Origin
from tests.support import Daemon, Home

GOLDEN = Path(__file__).with_name("golden.txt")

ASSISTANT = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: assistant
spec:
  model: demo/questions
  config:
    context_length: 512
"""

FILES = {
    "assistant.yaml": ASSISTANT,
    "both.yaml": ASSISTANT.replace("512", "1024")
    + "---\n"
    + ASSISTANT.replace("assistant", "narrow").replace("context_length: 512", "num_experts: 1"),
    "wrong.yaml": ASSISTANT.replace("context_length", "contxt_length"),
    "watched.yaml": ASSISTANT.replace("assistant", "watched")
    + "  defaults:\n    temperature: 0.2\n    system_prompt: Be brief.\n",
}

VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"'?\d{4}-\d\d-\d\dT[\d:.]+Z'?"), "<time>"),
    (re.compile(r"(?<=  )\d+[smhd]\b"), "<age>"),
    (re.compile(r"\d+\.\d\d ?s\b"), "<seconds>"),
    (re.compile(r"(?<=process )\d+"), "<pid>"),
    (re.compile(r"(?<=free:  )[\d.]+ GB|(?<=of:  )[\d.]+ GB"), "<bytes>"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b"), "<port>"),
    (re.compile(r'(\s+"node_\w+": ".*?",?)+'), "\n      <labels of the machine>"),
    (re.compile(r"(?<=process:  )[\d.]+ MB|[\d.]+ MB(?= of )"), "<bytes>"),
    (re.compile(r"(?<= B of )[\d.]+ GB|(?<=> of )[\d.]+ GB"), "<bytes>"),
    (re.compile(r"(?<= at )[0-9a-f]{16}"), "<revision>"),
    (re.compile(r"reconciler \d+\.\d+\.\d+"), "reconciler <version>"),
)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon with the demo's model, and files to apply in the working directory."""
    model = tmp_path / "models" / "demo" / "questions"
    model.parent.mkdir(parents=True)
    model.symlink_to(DEMO_MODEL)
    here = tmp_path / "here"
    here.mkdir()
    for name, text in FILES.items():
        (here / name).write_text(text, "utf-8")
    monkeypatch.chdir(here)
    for variable in list(os.environ):
        if variable.startswith("RECONCILER_"):
            monkeypatch.delenv(variable)
    with Daemon(Home(tmp_path / "home", tmp_path / "models")) as daemon:
        (daemon.home.manifests / "watched.yaml").write_text(FILES["watched.yaml"], "utf-8")
        daemon.ready("watched")
        nodes = [{"name": "here", "url": daemon.url}, {"name": "gone", "url": "http://127.0.0.1:9"}]
        (here / "inventory.yaml").write_text(json.dumps({"nodes": nodes}), "utf-8")
        (here / "alone.yaml").write_text(json.dumps({"nodes": nodes[:1]}), "utf-8")
        (here / "mistaken.yaml").write_text('nodes:\n- {name: a, uri: "x"}\n', "utf-8")
        Origin(here / "origin").declare("assistant", "new", model="demo/questions")
        monkeypatch.setenv("RECONCILER_URL", daemon.url)
        yield daemon


def printed(command: str, daemon: Daemon) -> str:
    """Output and exit code of a command, with varying values replaced."""
    result = CliRunner().invoke(main, shlex.split(command)[1:], input="", prog_name="reconciler")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in EXIT_CODES
    text = result.output.replace(str(daemon.home.root.parent), "<home>")
    text = text.replace(str(DEMO_MODEL), "<model>").replace(daemon.url, "<url>")
    text = re.sub(r"(?<=\S) {2,}", "  ", text)
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    if result.exit_code:
        text += f"(exit {result.exit_code})\n"
    return text


def test_a_session_at_a_terminal(session: Daemon) -> None:
    golden = GOLDEN.read_text("utf-8")
    commands = re.findall(r"^\$ (.*)$", golden, re.MULTILINE)
    assert len(commands) > 30
    text = "".join(f"$ {command}\n{printed(command, session)}\n" for command in commands)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(text, "utf-8")
    assert text == golden


def test_the_session_has_every_command() -> None:
    golden = GOLDEN.read_text("utf-8")
    others = {
        "serve",
        "service",
        "doctor",
        "demo",
        "completion",
        "pull",
        "open",
        "top",
        "show",
        "rm",
        "init",
        "import",
        "search",
        "bench",
        "man",
    }  # they have tests of their own
    for name in {name for names in COMMANDS.values() for name in names} - others:
        assert f"$ reconciler {name}" in golden


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_calls_the_command(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_RECONCILER_COMPLETE" in result.output
    asked = {
        "_RECONCILER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "reconciler des",
        "COMP_CWORD": "des" if shell == "fish" else "1",
    }
    result = CliRunner().invoke(main, [], prog_name="reconciler", env=asked)
    assert "describe" in result.output

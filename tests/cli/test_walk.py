"""The commands of README.md and docs/quickstart.md, run in order as by a new user.

`walk.txt` is the transcript, with varying values replaced. `GOLDEN=write pytest
tests/cli/test_walk.py` rewrites it. A local fake hub serves the demo's model under the name of the
model that the pages download.
"""

import json
import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reconciler.cli import main
from reconciler.demo import DEMO_MODEL
from tests.cli.test_golden import printed
from tests.hub import Hub
from tests.support import Daemon, Home

TRANSCRIPT = Path(__file__).with_name("walk.txt")
PAGES = (Path("README.md"), Path("docs/quickstart.md"))
MODEL = "mlx-community/Qwen3-0.6B-4bit"

TESTED_ELSEWHERE = {
    "uv tool install -c constraints.txt .": "tests/long/test_install.py",
    "reconciler service install": "tests/service",
    "reconciler doctor": "tests/doctor",
}
"""Commands that change the machine or depend on it, with their tests."""

VARYING = (
    (re.compile(r'"(id|created|\w*_time\w*|\w+_tokens)": ("[^"]*"|[\d.]+)'), r'"\1": <varies>'),
    (re.compile(r'"content": ".*?(?<!\\)"'), '"content": <answer>'),
    (re.compile(r'(?<="offload_kv_cache_to_gpu": )\w+'), "<if there is a GPU>"),
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Code blocks of a page, with their languages."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    """Commands of a shell block, without comments; a here-document is part of its command."""
    lines = iter(block.splitlines())
    for line in lines:
        command = re.sub(r"\s+#.*", "", line)
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
        if "<<" in command:
            command += "\n" + "\n".join(iter(lambda: next(lines), "YAML")) + "\nYAML"
        if command:
            yield command


def walk(page: Path) -> Iterator[str]:
    """Commands of a page; manifests are saved at the path in their first line."""
    for language, block in blocks(page):
        if language == "yaml":
            path, _, manifest = block.removeprefix("# ").partition("\n")
            yield f"cat > {path} <<'YAML'\n{manifest}YAML"
        elif language == "sh":
            yield from commands(block)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon with default options in a temporary home."""
    for variable in [name for name in os.environ if name.startswith(("RECONCILER_", "HF_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Hub() as hub:
        config = json.loads((DEMO_MODEL / "config.json").read_text("utf-8"))
        config["max_position_embeddings"] = 40_960  # that of the model on the pages
        hub.add(MODEL, DEMO_MODEL, config_dot_json=json.dumps(config).encode())
        environ = {
            "HF_ENDPOINT": hub.url,
            "RECONCILER_PORT": "0",
            "RECONCILER_SPARE_WORKERS": "0",
        }
        with Daemon(Home(tmp_path / "run", tmp_path), environ=environ) as daemon:
            monkeypatch.setenv("RECONCILER_URL", daemon.url)
            yield daemon


def result(command: str, daemon: Daemon) -> str:
    """Output of a command; `curl` is replaced by a request of this process."""
    if command.startswith("curl "):
        return masked(request(shlex.split(command), daemon))
    if command.startswith("reconciler "):
        text = printed(command, daemon)
        return "<answer>\n" if " run " in command and text.strip() else masked(text)
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


def request(curl: list[str], daemon: Daemon) -> str:
    _, url, _, header, _, body = curl
    name, _, value = header.partition(": ")
    address = url.replace("http://127.0.0.1:1234", daemon.url)
    asked = urllib.request.Request(address, body.encode(), {name: value})
    with urllib.request.urlopen(asked) as reply:
        return json.dumps(json.load(reply), indent=2) + "\n"


def masked(text: str) -> str:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text


def test_a_new_user_can_follow_the_readme_and_the_quick_start(daemon: Daemon) -> None:
    pages = [(page, [c for c in walk(page) if c not in TESTED_ELSEWHERE]) for page in PAGES]
    transcript = ""
    for page, steps in pages:
        assert len(steps) > 3
        transcript += f"== {page}\n\n"
        transcript += "".join(f"$ {step}\n{result(step, daemon)}\n" for step in steps)
    if os.environ.get("GOLDEN") == "write":
        TRANSCRIPT.write_text(transcript, "utf-8")
    assert transcript == TRANSCRIPT.read_text("utf-8")


def test_every_command_that_is_tested_elsewhere_is_on_the_pages() -> None:
    assert TESTED_ELSEWHERE.keys() <= {command for page in PAGES for command in walk(page)}
    assert [path for path in TESTED_ELSEWHERE.values() if not Path(path).exists()] == []


def test_every_command_in_the_docs_can_be_parsed() -> None:
    """Options and arguments must be valid; files need not exist."""
    pages = [*Path().glob("*.md"), *Path("docs").rglob("*.md")]
    shell = [block for page in pages for language, block in blocks(page) if language == "sh"]
    lines = {line for block in shell for line in commands(block) if line[:11] == "reconciler "}
    assert len(lines) > 30
    for line in sorted(lines):
        words = shlex.split(re.split(r"\s[|>&;]|\s+#", line)[0])
        parse(main, words[0], words[1:])


def parse(command: click.Command, name: str, words: list[str]) -> None:
    """Parse the words. Raises click.UsageError if an option or argument is invalid."""
    try:
        context = command.make_context(name, words)
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise
        return
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        inner_name, inner, rest = command.resolve_command(context, rest)
        assert inner is not None
        parse(inner, str(inner_name), rest)

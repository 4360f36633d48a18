"""`reconciler launch` with the real tools."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, Installed, acted
from tests.support import Daemon, Home

pytestmark = harness.long

AIDER = Client("launch aider", "PyPI", ("aider-chat==0.86.2",), "an edit of a file")
LLM = Client("launch llm", "PyPI", ("llm==0.36",), "a prompt, `--schema`, a tool")
OPENCODE = Client(
    "launch opencode", "npm", ("opencode-ai@1.18.33",), "`run` with a tool round trip"
)
QWEN = Client(
    "launch qwen",
    "npm",
    ("@qwen-code/qwen-code@0.24.4",),
    "a prompt with a tool round trip",
)

CLINE = Client("launch cline", "npm", ("cline@3.0.65",), "a prompt with a tool round trip")

CODEX = Client("launch codex", "npm", ("@openai/codex@0.171.0",), "`exec` with a tool round trip")
CLAUDE = Client(
    "launch claude",
    "npm",
    ("@anthropic-ai/claude-code@2.1.332",),
    "`-p` with a tool round trip; a search of its tools, a second turn, kept prompts",
)

COPILOT = Client(
    "launch copilot", "npm", ("@github/copilot@1.0.102",), "`-p` with a tool round trip"
)
PI = Client(
    "launch pi", "npm", ("@mariozechner/pi-coding-agent@0.73.1",), "`-p` with a tool round trip"
)

DONE = "The file is there now, as asked."
WRITTEN = "written by a tool"
"""Text that the tools print, by which the model recognizes their result."""

COMMAND = f"echo '{WRITTEN}' > note.txt; cat note.txt"

UNGUARDED = ("--skip-git-repo-check", "--sandbox", "danger-full-access")
"""Options of codex: its sandbox may not work inside the sandbox of the tests."""

FAILED = "The tool failed."

MODEL = "acting/agent"


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    rules = [
        Rule(f"'{WRITTEN}' in result", DONE),
        Rule("'llm_version' in names and not result", call("llm_version")),
        Rule("'llm_version' in names", "It is that version."),
        Rule("result", FAILED),
        Rule("'bash' in names", call("bash", command=COMMAND, description="Write a note")),
        Rule(
            "'run_shell_command' in names",
            call("run_shell_command", command=COMMAND, is_background=False),
        ),
        Rule("'exec_command' in names", call("exec_command", cmd=COMMAND)),
        Rule("'shell_command' in names", call("shell_command", command=COMMAND)),
        Rule("'Bash' in names", call("Bash", command=COMMAND, description="Write a note")),
        Rule("'run_commands' in names", call("run_commands", commands=[COMMAND])),
        Rule("'file listing' in asked", f"note.txt\n```\n{WRITTEN}\n```\n"),
        Rule("'Describe' in asked", '{"name": "Paris", "people": 2100000}'),
    ]
    return acted(shared, "agent", rules, otherwise="Hello to you.")


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, models: Path, model: str
) -> Iterator[tuple[Daemon, Path]]:
    """A daemon that requires a token, and the token file."""
    assert model == MODEL
    root = tmp_path_factory.mktemp("guarded")
    token_file = root / "token"
    token_file.write_text("secret-1")
    token_file.chmod(0o600)
    with Daemon(Home(root, models), "--token-file", str(token_file)) as daemon:
        yield daemon, token_file


def launched(
    installed: Installed, daemon: Daemon, cwd: Path, tool: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    launch = (sys.executable, "-m", "reconciler", "launch", tool)
    return installed.run(
        [*launch, "--url", daemon.url, "--model", MODEL, "--", *arguments], environ={}, cwd=cwd
    )


def check_note(done: "subprocess.CompletedProcess[str]", directory: Path) -> None:
    """Check that the tool wrote its note, reported that, and exited successfully."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert DONE in done.stdout
    assert (directory / "note.txt").read_text() == f"{WRITTEN}\n"


@pytest.mark.usefixtures("model")
def test_llm(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    llm = clients.installed(LLM)
    for arguments, expected in (
        (("Hello",), "Hello to you."),
        (("--schema", "name, people int", "Describe the city."), '"Paris"'),
        (("--tool", "llm_version", "Which version is it?"), "It is that version."),
    ):
        done = launched(llm, shared, tmp_path, "llm", *arguments)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert not list((llm.directory / "home").rglob("*llm*"))


@pytest.mark.usefixtures("model")
def test_aider(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    arguments = ("--no-git", "--yes-always", "--no-check-update", "--no-analytics")
    aider = clients.installed(AIDER)
    done = launched(
        aider, shared, tmp_path, "aider", *arguments, "--message", "Write it.", "note.txt"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "note.txt").read_text() == f"{WRITTEN}\n", done.stdout + done.stderr


@pytest.mark.usefixtures("model")
def test_opencode(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    opencode = clients.installed(OPENCODE)
    done = launched(opencode, shared, tmp_path, "opencode", "run", "--auto", "Write a note.")
    check_note(done, tmp_path)


@pytest.mark.usefixtures("model")
def test_qwen_code(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    qwen = clients.installed(QWEN)
    done = launched(qwen, shared, tmp_path, "qwen", "--yolo", "-p", "Write a note.")
    check_note(done, tmp_path)


@pytest.mark.usefixtures("model")
def test_copilot(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    copilot = clients.installed(COPILOT)
    options = ("-p", "Write a note.", "--allow-all-tools")
    done = launched(copilot, shared, tmp_path, "copilot", *options)
    check_note(done, tmp_path)


@pytest.mark.usefixtures("model")
def test_pi(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    done = launched(clients.installed(PI), shared, tmp_path, "pi", "-p", "Write a note.")
    check_note(done, tmp_path)


@pytest.mark.usefixtures("model")
def test_cline(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    cline = clients.installed(CLINE)
    done = launched(cline, shared, tmp_path, "cline", "Write a note.")
    check_note(done, tmp_path)


def own(installed: Installed, path: str, text: str) -> Path:
    """Write a user's own settings file, which points a tool to another server."""
    file = installed.directory / "home" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.usefixtures("model")
def test_codex(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    codex = clients.installed(CODEX)
    settings = 'model = "another"\nmodel_provider = "lmstudio"\n'
    file = own(codex, ".codex/config.toml", settings)
    done = launched(codex, shared, tmp_path, "codex", "exec", *UNGUARDED, "Write a note.")
    check_note(done, tmp_path)
    assert file.read_text() == settings


@pytest.mark.usefixtures("model")
def test_claude_code(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    claude = clients.installed(CLAUDE)
    settings = {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}, "model": "another"}
    file = own(claude, ".claude/settings.json", json.dumps(settings))
    options = ("-p", "Write a note.", "--allowedTools", "Bash")
    done = launched(claude, shared, tmp_path, "claude", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert DONE in done.stdout
    assert "context window" not in done.stderr  # it guesses one unless one is given
    assert (tmp_path / "note.txt").read_text() == f"{WRITTEN}\n"
    assert json.loads(file.read_text()) == settings


@pytest.mark.parametrize(
    ("client", "tool", "arguments"),
    [
        (LLM, "llm", ("Hello",)),
        (OPENCODE, "opencode", ("run", "Hello")),
        (QWEN, "qwen", ("-p", "Hello")),
        (CLINE, "cline", ("Hello to the model.",)),
        (COPILOT, "copilot", ("-p", "Hello", "--allow-all-tools")),
        (PI, "pi", ("-p", "Hello")),
        (CODEX, "codex", ("exec", *UNGUARDED, "Hello")),
        (CLAUDE, "claude", ("-p", "Hello", "--allowedTools", "Bash")),
    ],
)
def test_the_token_is_passed_to_the_tool(
    clients: Clients,
    guarded: tuple[Daemon, Path],
    tmp_path: Path,
    client: Client,
    tool: str,
    arguments: tuple[str, ...],
) -> None:
    daemon, token_file = guarded
    launch = [sys.executable, "-m", "reconciler", "launch", tool, "--url", daemon.url]
    launch += ["--token-file", str(token_file), "--model", MODEL, "--", *arguments]
    done = clients.installed(client).run(launch, environ={}, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(text in done.stdout for text in ("Hello to you.", DONE)), done.stdout

"""Claude Code with a model that plays a role: it reads a file with a tool and stops by itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Clients, acted
from tests.clients.test_launch import CLAUDE
from tests.support import Daemon

pytestmark = harness.long

SECRET = "quillwort 4711"
KEY = "ANTHROPIC_API_KEY"
"""Variable whose value is sent as `x-api-key`."""

DONE = f"The file says {SECRET}."


@pytest.fixture(scope="module")
def model(shared: Daemon, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model that reads a file, and the directory of the file."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "note.txt").write_text(f"{SECRET}\n", "utf-8")
    rules = [
        Rule(f"'{SECRET}' in result", f"<think>\nIt is there.\n</think>\n\n{DONE}"),
        Rule("'WebFetch' in result", call("Read", file_path=str(directory / "note.txt"))),
        Rule("'Find your tools' in asked", call("ToolSearch", query="select:WebFetch")),
        Rule("'again' in asked", "I said it already."),
        Rule("'Read' in names", call("Read", file_path=str(directory / "note.txt"))),
    ]
    return acted(shared, "claude", rules, otherwise="Nothing to add."), directory


def ask(
    clients: Clients,
    daemon: Daemon,
    model: tuple[str, Path],
    prompt: str,
    *options: str,
    key: str = "ANTHROPIC_AUTH_TOKEN",
) -> Any:
    """Final output of `claude -p`."""
    installed = clients.installed(CLAUDE)
    name, directory = model
    environ = {
        "ANTHROPIC_BASE_URL": daemon.url,
        key: "none",
        "CLAUDE_CONFIG_DIR": str(directory / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }
    command = ["claude", "-p", prompt, "--model", name, "--output-format", "json", *options]
    done = installed.run(command, environ=environ, cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["subtype"], answer["is_error"]) == ("success", False)
    return answer


def test_it_reads_a_file_and_continues_in_a_second_turn(
    clients: Clients, shared: Daemon, model: tuple[str, Path]
) -> None:
    answer = ask(clients, shared, model, "What does note.txt say?")
    assert (answer["result"], answer["num_turns"]) == (DONE, 2)
    assert answer["stop_reason"] == "end_turn"
    usage = answer["usage"]
    # The second request contains the first one's whole prompt, which is cached.
    assert usage["cache_read_input_tokens"] > usage["input_tokens"] / 2
    more = ask(clients, shared, model, "Say it again.", "--resume", answer["session_id"])
    assert more["result"] == "I said it already."
    assert more["usage"]["cache_read_input_tokens"] > 10 * more["usage"]["input_tokens"]


def test_it_searches_its_tools(clients: Clients, shared: Daemon, model: tuple[str, Path]) -> None:
    answer = ask(clients, shared, model, "Find your tools, then read note.txt.")
    assert (answer["result"], answer["num_turns"]) == (DONE, 3)


def test_another_conversation_reuses_the_cached_system_prompt(
    clients: Clients, shared: Daemon, model: tuple[str, Path]
) -> None:
    ask(clients, shared, model, "What does note.txt say?")
    other = ask(clients, shared, model, "And what does note.txt say now?", key=KEY)
    usage = other["usage"]
    assert usage["cache_read_input_tokens"] > usage["input_tokens"]

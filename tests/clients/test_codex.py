"""OpenAI's Codex CLI with `/v1/responses`: a tool round trip, and failures without retries."""

import subprocess
from pathlib import Path

import pytest

from reconciler.recipes.tools import TOOLS, Target
from tests.clients import harness
from tests.clients.acting import Rule, call
from tests.clients.harness import Client, Clients, acted
from tests.support import Daemon

pytestmark = harness.long

CODEX = Client(
    "Codex CLI",
    "npm",
    ("@openai/codex@0.171.0",),
    "`codex exec` to its end: it runs a command for the model, which answers from its output",
)

THOUGHT = "The shell knows."
ANSWER = "The shell counts 42 sheep."
FORGOTTEN = "The thought is lost."


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    """Runs a shell command whose output is in no earlier prompt, and answers with that output."""
    command = call("exec_command", cmd="echo $((40 + 2)) sheep")
    thought = "messages | selectattr('tool_calls') | map(attribute='reasoning_content') | join"
    rules = [
        Rule(f"'42 sheep' in result and '{THOUGHT}' in {thought}", ANSWER),
        Rule("'42 sheep' in result", FORGOTTEN),
        Rule("'exec_command' in names", f"<think>\n{THOUGHT}\n</think>\n\n{command}"),
    ]
    return acted(shared, "codex", rules)


def run(
    clients: Clients, daemon: Daemon, model: str, cwd: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run `codex exec` with the settings of `reconciler launch codex`."""
    recipe = TOOLS["codex"].recipe(Target(daemon.url, model))
    command = [*recipe.command, *options, "exec", "--skip-git-repo-check"]
    command += ["--dangerously-bypass-approvals-and-sandbox", "How many sheep are there?"]
    return clients.installed(CODEX).run(command, environ=recipe.environ, cwd=cwd)


def test_a_tool_round_trip_works(
    clients: Clients, shared: Daemon, model: str, tmp_path: Path
) -> None:
    done = run(clients, shared, model, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER), done.stderr
    assert "42 sheep" in done.stderr
    assert THOUGHT in done.stderr


def test_a_websocket_is_abandoned_at_once(
    clients: Clients, shared: Daemon, model: str, tmp_path: Path
) -> None:
    option = ("-c", "model_providers.reconciler.supports_websockets=true")
    done = run(clients, shared, model, tmp_path, *option)
    assert "failed to connect to Responses WebSocket" in done.stderr
    assert (done.returncode, done.stdout.strip()) == (0, ANSWER), done.stderr
    assert "econnecting" not in done.stderr


def test_an_unknown_model_is_named(clients: Clients, shared: Daemon, tmp_path: Path) -> None:
    done = run(clients, shared, "nobody/nothing", tmp_path)
    assert done.returncode != 0
    assert "nobody/nothing" in done.stderr.partition("ERROR")[2]

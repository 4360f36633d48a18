"""Shell completion: names come from the daemon; without a daemon there is no error."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reconciler.cli import COMMANDS, completing, main

ANSWERS = {
    "/api/v1/records": {"records": [{"name": "assistant"}, {"name": "embedder"}]},
    "/api/v1/models": {"models": [{"key": "openai/gpt-oss-20b"}, {"key": "assistant"}]},
    "/api/v1/sources": {"sources": [{"name": "directory:/manifests"}]},
}
TOKEN = "secret"


class Answering(BaseHTTPRequestHandler):
    """A fake daemon that requires a token and only serves lists."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        body = json.dumps(ANSWERS.get(self.path, {}) if allowed else {"error": {}}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def environ(address: str, tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n", "utf-8")
    return {"RECONCILER_URL": address, "RECONCILER_TOKEN_FILE": str(token)}


def completed(line: str, environ: dict[str, str], shell: str = "bash") -> list[str]:
    """Completions of the last word of a command line."""
    words = line.split(" ")
    more = {
        "_RECONCILER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    result = CliRunner().invoke(main, [], prog_name="reconciler", env=environ | more)
    assert result.exit_code == 0
    return [line for line in result.output.splitlines() if line]


@pytest.mark.parametrize("command", ["describe", "get", "wait", "clear", "logs", "unload"])
def test_names_of_records_are_completed(command: str, environ: dict[str, str]) -> None:
    assert completed(f"reconciler {command} as", environ) == ["plain,assistant"]
    assert completed(f"reconciler {command} ", environ) == ["plain,assistant", "plain,embedder"]


def test_models_sources_and_values_of_options_are_completed(environ: dict[str, str]) -> None:
    assert completed("reconciler load open", environ) == ["plain,openai/gpt-oss-20b"]
    assert completed("reconciler sync d", environ) == ["plain,directory:/manifests"]
    assert completed("reconciler events --name e", environ) == ["plain,embedder"]
    assert len(completed("reconciler run ", environ)) == 3


def test_a_name_already_on_the_line_is_not_offered_again(environ: dict[str, str]) -> None:
    assert completed("reconciler unload assistant ", environ) == ["plain,embedder"]


@pytest.mark.parametrize("line", ["reconciler apply -f man", "reconciler validate man"])
def test_files_are_completed_by_the_shell(line: str, environ: dict[str, str]) -> None:
    assert completed(line, environ) == ["file,man"]


def test_other_shells_get_the_same_names(environ: dict[str, str]) -> None:
    line = "reconciler describe as"
    assert completed(line, environ, "zsh") == ["plain", "assistant", "_"]
    assert completed(line, environ, "fish") == ["plain,assistant"]


def test_completion_uses_the_address_of_the_command_line(environ: dict[str, str]) -> None:
    other = environ | {"RECONCILER_URL": "http://127.0.0.1:9"}
    url = environ["RECONCILER_URL"]
    assert completed(f"reconciler describe --url {url} as", other) == ["plain,assistant"]
    assert completed(f"reconciler --url {url} describe as", other) == ["plain,assistant"]


@pytest.mark.parametrize(
    "change",
    [
        {"RECONCILER_URL": "http://127.0.0.1:9"},
        {"RECONCILER_URL": "nonsense"},
        {"RECONCILER_URL": "http://127.0.0.1:port"},
        {"RECONCILER_TOKEN_FILE": ""},
        {"RECONCILER_TOKEN_FILE": "/missing"},
    ],
)
def test_nothing_is_completed_or_printed_without_an_answer_of_the_daemon(
    change: dict[str, str], environ: dict[str, str]
) -> None:
    assert completed("reconciler describe as", environ | change) == []


def test_completion_does_not_wait_for_a_hanging_daemon(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    monkeypatch.setattr(completing, "SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert completed("reconciler describe as", environ | {"RECONCILER_URL": url}) == []


COMPLETED = {"name", "names", "model", "models", "files", "source"}


def test_every_argument_that_names_something_is_completed(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    root = click.Context(main)
    root.params["url"] = environ["RECONCILER_URL"]
    checked = 0
    for command in (main.get_command(root, name) for names in COMMANDS.values() for name in names):
        assert command is not None
        context = click.Context(command, root)
        context.params["token_file"] = Path(environ["RECONCILER_TOKEN_FILE"])
        for parameter in command.params:
            if isinstance(parameter, click.Argument) and parameter.name in COMPLETED:
                assert parameter.shell_complete(context, ""), (command.name, parameter.name)
                checked += 1
    assert checked > 10

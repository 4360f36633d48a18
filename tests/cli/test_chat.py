"""`run` at a terminal: lines, commands, errors and Ctrl-C."""

import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from reconciler.cli.chat_commands import execute, set_parameter
from reconciler.cli.chat_prompt import is_open, unquoted
from reconciler.cli.talk import Measured, Talk
from tests.cli.terminal import Terminal
from tests.conftest import QUESTIONS
from tests.support import Daemon

CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A"

QUESTION = "What is the capital of Japan?"
LONG = "word " * 200


def test_a_chat_with_a_declared_instance(shared: Daemon, tmp_path: Path) -> None:
    shared.home.write("chat.yaml", name="declared", model=QUESTIONS, context_length=96)
    shared.ready("declared")
    saved = tmp_path / "saved.json"
    command = ("run", "declared", "--url", shared.url, "--verbose", "--temperature", "0")
    with Terminal(tmp_path, *command) as terminal:
        terminal.expect(">>>")
        terminal.press(f"{QUESTION}{ENTER}")
        terminal.expect("The capital of Japan is Tokyo.")
        terminal.expect("first token after")
        terminal.expect("of them cached")
        terminal.expect(">>>")
        terminal.press(f"{LONG}{ENTER}")
        terminal.expect("Error: ")  # it exceeds the context length; the chat continues
        terminal.expect(">>>")
        terminal.press(f"/set temperature 3{ENTER}")
        terminal.expect("a number from 0 to 2")
        terminal.press(f"/claer{ENTER}")
        terminal.expect("did you mean '/clear'?")
        terminal.press(f"/save {saved}{ENTER}")
        terminal.expect("2 messages are saved")
        terminal.press(f"/clear{ENTER}")
        terminal.expect("deleted")
        terminal.press(f"/show{ENTER}")
        terminal.expect("context_length 96")
        terminal.expect("messages:    0")
        terminal.expect(">>>")
        terminal.press(f"not sent{CTRL_C}")
        terminal.expect(">>>")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        assert "Traceback" not in terminal.screen
        assert "Aborted" not in terminal.screen
    chat = json.loads(saved.read_text("utf-8"))
    assert (chat["model"], chat["temperature"]) == ("declared", 0)
    assert [m["role"] for m in chat["messages"]] == ["user", "assistant"]
    history = tmp_path / ".reconciler/chat-history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert f"+{QUESTION}" in history.read_text("utf-8")


def test_lines_can_be_edited_and_recalled(shared: Daemon, tmp_path: Path) -> None:
    command = ("run", QUESTIONS, "--url", shared.url, "--no-history", "--temperature", "0")
    with Terminal(tmp_path, *command) as terminal:
        terminal.expect(">>>")
        terminal.press(f'"""{ENTER}What is the capital{ENTER}of Japan?"""{ENTER}')
        terminal.expect("Tokyo")
        terminal.expect(">>>")
        terminal.press(f"What is the capital of{ALT_ENTER}Norway?{ENTER}")
        terminal.expect("Oslo")
        terminal.expect(">>>")
        terminal.press(f"/bye{ENTER}")
        assert terminal.end() == 0
    assert not (tmp_path / ".reconciler/chat-history").exists()


@contextmanager
def endless() -> Iterator[tuple[str, threading.Event]]:
    """A server whose instance `slow` answers the first question endlessly; and its stop event."""
    stopped = threading.Event()
    questions: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ready = {"type": "Ready", "status": "True", "reason": "Loaded", "message": ""}
            body = json.dumps({"name": "slow", "status": {"conditions": [ready]}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            questions.append(asked["messages"][-1]["content"])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            chunk = {"choices": [{"delta": {"content": f"piece {len(asked['messages'])}"}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
            if len(questions) == 1:
                self.rfile.read(1)  # returns when the client closes the connection
                stopped.set()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", stopped
        finally:
            server.shutdown()
            thread.join()


def test_ctrl_c_stops_an_answer_and_ctrl_d_ends_the_chat(tmp_path: Path) -> None:
    with (
        endless() as (url, stopped),
        Terminal(tmp_path, "run", "slow", "--no-history", "--url", url) as terminal,
    ):
        terminal.expect(">>>")
        terminal.press(f"begin{ENTER}")
        terminal.expect("piece 1")
        terminal.press(CTRL_C)
        terminal.expect("(stopped)")
        assert stopped.wait(60)
        terminal.expect(">>>")
        terminal.press(f"go on{ENTER}")
        terminal.expect("piece 3")  # the stopped answer is part of the chat
        terminal.expect(">>>")
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        assert "Traceback" not in terminal.screen


def talk() -> Talk:
    return Talk(None, "a")  # type: ignore[arg-type]


def test_parameters_are_set_and_reset(capsys: pytest.CaptureFixture[str]) -> None:
    chat = talk()
    chat.messages.append({"role": "user", "content": "x"})
    for line in ("system Be brief.", "temperature 0.5", "top_p 0.9", "max_tokens 7", "verbose on"):
        set_parameter(chat, line)
    system = {"role": "system", "content": "Be brief."}
    options = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7}
    assert (*chat.request(), chat.verbose) == ([system, *chat.messages], options, True)
    for line in ("system", "temperature", "top_p", "max_tokens", "verbose off"):
        set_parameter(chat, line)
    assert (*chat.request(), chat.verbose) == (chat.messages, {}, False)
    assert "temperature: 0.5" in capsys.readouterr().out


class Answering:
    """A client whose model answers with these pieces."""

    def __init__(self, *pieces: dict[str, str]) -> None:
        self._pieces = pieces

    async def chunks(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        for piece in self._pieces:
            yield {"choices": [{"delta": piece}]}


@pytest.mark.parametrize("terminal", [True, False])
async def test_a_terminal_does_not_obey_what_a_model_writes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    """Escape sequences write to the clipboard, or hide lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    answer = "a\x07\x9b2Jb\tc\r\nd\re"
    model: Any = Answering({"reasoning_content": "\x1b]52;c;eA==\x07"}, {"content": answer})
    chat = Talk(model, "a")
    await chat.ask("x")
    shown = capsys.readouterr().out
    if terminal:
        assert shown.endswith("\n\na\\x07\\x9b2Jb\tc\nd\\re\n")
        assert "\\x1b]52;c;eA==\\x07" in shown
    else:
        assert shown.endswith(f"\n\n{answer}\n")
    assert chat.messages[-1]["content"] == answer


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set colour red", "the parameters are system, temperature"),
        ("/set temperature warm", "a number from 0 to 2"),
        ("/set max_tokens 0", "1 or more"),
        ("/set verbose loud", "on or off"),
        ("/save", "give a file"),
        ("/save .", "already exists|Is a directory"),
        ("/dance", "there is no command /dance; /help lists them"),
    ],
)
async def test_an_invalid_command_reports_the_valid_ones(line: str, message: str) -> None:
    with pytest.raises(click.ClickException, match=message):
        await execute(talk(), line)


async def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    await execute(talk(), "/help")
    text = capsys.readouterr().out
    for command in ("/help", "/clear", "/set", "/show", "/save", "/bye"):
        assert command in text


def test_quotes_enclose_several_lines() -> None:
    assert is_open('"""')
    assert is_open('"""a\nb')
    assert not is_open('"""a\nb"""')
    assert not is_open('a """')
    assert unquoted('"""a\nb"""') == "a\nb"
    assert unquoted("  a ") == "a"


def test_the_speed_of_an_answer() -> None:
    usage = {"prompt_tokens": 21, "completion_tokens": 11}
    cached = {"prompt_tokens_details": {"cached_tokens": 16}}
    measured = Measured(usage | cached, began=1.0, first=1.5, last=2.5)
    assert str(measured) == (
        "first token after 0.50 s; 10.0 tokens/s; 21 prompt tokens, 16 of them cached; "
        "11 completion tokens"
    )
    assert "tokens/s" not in str(Measured(usage, began=1.0, first=1.5, last=1.51))

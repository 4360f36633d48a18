"""Commands with a daemon: errors give the reason and the fix."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli import log, main
from tests.cli.terminal import Terminal
from tests.conftest import QUESTIONS
from tests.support import MANIFEST, Daemon, copied, environment

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(shared: Daemon) -> Run:
    """Function that runs a command and returns its exit code and output."""

    def invoke(*words: str, text: str = "") -> tuple[int, str]:
        environ = {"RECONCILER_URL": shared.url}
        result = CliRunner().invoke(main, words, input=text, env=environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return invoke


def manifest(name: str, **config: int) -> str:
    return MANIFEST.format(name=name, model=QUESTIONS, config=json.dumps(config))


def test_an_address_is_accepted_in_any_usual_form(run: Run, shared: Daemon) -> None:
    bare = shared.url.removeprefix("http://")
    for url in (bare, f"{bare}/v1", f"{shared.url}/v1", f"{shared.url}/api/v1/"):
        assert run("--url", url, "ps")[0] == 0
        assert run("ps", "--url", url)[0] == 0
    code, text = run("--url", "ftp://x", "ps")
    assert (code, "write HOST:PORT" in text) == (64, True)


def test_records_are_exported_as_manifests_that_can_be_applied(run: Run, shared: Daemon) -> None:
    shared.home.write("watched.yaml", name="watched", model=QUESTIONS, context_length=64)
    shared.ready("watched")
    assert run("apply", "--wait", "-f", "-", text=manifest("kept", context_length=128))[0] == 0
    code, exported = run("export")
    assert code == 0
    assert "name: kept" in exported
    assert "watched" not in exported
    assert "name: watched" in run("export", "--all")[1]
    code, kept = run("get", "kept", "-o", "manifest")
    assert (code, kept in exported) == (0, True)
    assert run("delete", "kept")[0] == 0
    assert run("apply", "--wait", "-f", "-", text=kept) == (0, "kept created\n")
    assert run("delete", "kept")[0] == 0


@pytest.mark.parametrize("command", ["apply", "diff", "plan"])
def test_nothing_to_apply_is_an_error(run: Run, command: str) -> None:
    for text in ("", "# nothing\n"):
        code, output = run(command, "-f", "-", text=text)
        assert (code, "no record is declared in <stdin>" in output) == (1, True)


def test_records_of_a_watched_file_are_previewed(run: Run, shared: Daemon) -> None:
    path = shared.home.write("seen.yaml", name="seen", model=QUESTIONS, context_length=64)
    shared.ready("seen")
    text = path.read_text("utf-8")
    assert "seen" not in run("plan", "-f", "-", text=text)[1]
    changed = text.replace("64", "96")
    code, output = run("plan", "-f", "-", text=changed)
    assert code == 2
    assert "Reconfigure" in output
    assert "context_length from 64 to 96" in output
    code, output = run("diff", "-f", "-", text=changed)
    assert (code, "-  context_length: 64\n+  context_length: 96" in output) == (2, True)
    code, output = run("apply", "-f", "-", text=changed)
    assert (code, "managed by seen.yaml:1" in output) == (1, True)
    code, output = run("apply", "--dry-run", "-f", "-", text=changed)
    assert (code, "managed by seen.yaml:1" in output) == (1, True)
    assert shared.get("/api/v1/records/seen")["generation"] == 1


def test_a_joined_load_reports_settings_that_were_not_requested(run: Run, shared: Daemon) -> None:
    run("unload", "tiny/llama")  # other tests may have loaded it
    shared.home.write("small.yaml", name="small", model="tiny/llama", context_length=64)
    shared.ready("small")
    code, output = run("load", "tiny/llama")
    assert code == 0
    assert "note: 'small' was loaded by small.yaml:1 with context_length 64" in output
    assert "reconciler load tiny/llama --name NAME" in output
    assert "note:" not in run("load", "tiny/llama", "--context-length", "64")[1]
    assert "note:" not in run("load", "tiny/llama", "--name", "small")[1]


def test_tokens_and_durations_may_have_units(run: Run, shared: Daemon) -> None:
    words = ("--name", "units", "--context-length", "1k", "--idle-ttl", "10m")
    assert run("load", QUESTIONS, *words)[0] == 0
    record = shared.get("/api/v1/records/units")
    assert record["spec"]["config"]["context_length"] == 1024
    assert record["spec"]["idle_ttl_seconds"] == 600
    assert run("load", QUESTIONS, "--context-length", "many")[0] == 64
    assert run("load", QUESTIONS, "--idle-ttl", "0.5s")[0] == 64
    assert run("unload", "units")[0] == 0


def test_another_spelling_of_a_model_is_the_same_model(run: Run, shared: Daemon) -> None:
    run("unload", "tiny/qwen3")  # other tests may have loaded it
    assert run("load", "Tiny/Qwen3")[1].startswith("tiny/qwen3 is loaded: ")
    assert run("load", "TINY/qwen3")[1].startswith("tiny/qwen3 is already loaded: ")
    assert shared.get("/api/v1/records/tiny/qwen3")["spec"]["model"] == "tiny/qwen3"
    assert run("unload", "tiny/qwen3")[0] == 0


def test_errors_about_missing_things_give_a_fix(run: Run, shared: Daemon) -> None:
    shared.home.write("nearby.yaml", name="nearby", model=QUESTIONS)
    shared.ready("nearby")
    code, output = run("load", "maker/none")
    assert (code, "`reconciler pull maker/none` downloads it" in output) == (4, True)
    assert "similar names: openai/gpt-oss-20b" in run("load", "gpt-oss")[1]
    missing = (
        *(("get", "nearbi"), ("describe", "nearbi"), ("clear", "nearbi"), ("wait", "nearbi")),
        *(("unload", "nearbi"), ("delete", "nearbi"), ("events", "--name", "nearbi")),
        ("events", "-f", "--name", "nearbi"),
    )
    for words in missing:
        code, output = run(*words)
        assert (code, "did you mean 'nearby'?" in output) == (4, True), (words, output)


def test_wait_finds_a_manifest_that_was_just_written(run: Run, shared: Daemon) -> None:
    shared.home.write("written.yaml", name="written", model=QUESTIONS)
    assert run("wait", "written") == (0, "written is ready\n")


def test_several_records_are_described(run: Run, shared: Daemon) -> None:
    for name in ("first", "second"):
        shared.home.write(f"{name}.yaml", name=name, model=QUESTIONS)
        assert run("wait", name)[0] == 0
    code, output = run("describe", "first", "second")
    assert code == 0
    assert [line.split()[1] for line in output.splitlines() if line.startswith("Name:")] == [
        "first",
        "second",
    ]
    assert run("get", "first", "second", "-o", "name") == (0, "first\nsecond\n")


def test_events_of_a_removed_record_are_found(run: Run) -> None:
    assert run("load", QUESTIONS, "--name", "removed")[0] == 0
    assert run("unload", "removed")[0] == 0
    code, output = run("events", "--name", "removed")
    assert (code, "Removed" in output) == (0, True)


def test_run_accepts_the_name_of_an_instance(run: Run, shared: Daemon) -> None:
    shared.home.write("asked.yaml", name="asked", model=QUESTIONS, context_length=64)
    shared.ready("asked")
    question = "What is the capital of Japan?"
    code, output = run("run", "asked", "--temperature", "0", question)
    assert (code, output) == (0, "The capital of Japan is Tokyo.\n")
    assert "asked" in [r["name"] for r in shared.get("/api/v1/records")["records"]]
    code, output = run("run", "asked", "--context-length", "32", question)
    assert (code, "managed by asked.yaml:1" in output) == (1, True)
    assert run("run", "asked") == (
        1,
        "Error: there is no prompt; give a PROMPT, or pipe one in\n",
    )
    code, output = run("run", "asked", text=question)
    assert (code, "Tokyo" in output) == (0, True)


def test_a_pull_of_a_model_in_a_model_directory_does_not_need_the_hub(run: Run) -> None:
    code, output = run("pull", "tiny/llama")
    assert (code, output.startswith("tiny/llama is already downloaded\nnote: it is in ")) == (
        0,
        True,
    )


def test_a_table_keeps_names_whole_in_a_narrow_terminal(shared: Daemon, tmp_path: Path) -> None:
    name = "a-name-that-is-copied-into-other-commands"
    shared.home.write("narrow.yaml", name=name, model=QUESTIONS)
    shared.ready(name)
    with Terminal(tmp_path, "get", "--url", shared.url, columns=80) as terminal:
        assert terminal.end() == 0
    lines = terminal.screen.splitlines()
    (row,) = [line for line in lines if line.startswith("a-name")]
    assert row.split()[:2] == [name, "True"]
    assert "…" in row


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_ends_a_followed_log_without_a_message(
    shared: Daemon, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "reconciler", "events", "-f", "--url", shared.url]
    pipe = subprocess.PIPE
    shared.home.write("followed.yaml", name="followed", model=QUESTIONS)
    shared.ready("followed")
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"first\nsecond", b"", b"x" * 5000])
def test_a_token_file_without_one_line_of_text_is_refused(
    run: Run, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    code, text = run("ls", "--token-file", str(file))
    assert (code, f"token file {file} must contain one line of text" in text) == (1, True)


NOT_REGULAR = {
    "a client's token": ("ls", "--token-file", "FIFO"),
    "the daemon's token": ("serve", "--state", "STATE", "--port", "0", "--token-file", "FIFO"),
    "a log": ("serve", "--state", "STATE", "--port", "0", "--log-file", "FIFO"),
    "a key": (
        "serve",
        "--state",
        "STATE",
        "--port",
        "0",
        "--git",
        "https://x.example/y",
        "--git-key",
        "FIFO",
    ),
    "signers": (
        "serve",
        "--state",
        "STATE",
        "--port",
        "0",
        "--git",
        "https://x.example/y",
        "--git-verify",
        "FIFO",
    ),
    "an inventory": ("fleet", "status", "--inventory", "FIFO"),
    "a token of an inventory": ("fleet", "status", "--inventory", "INVENTORY"),
}


@pytest.mark.timeout(30)  # it waited for ever
@pytest.mark.parametrize("words", NOT_REGULAR.values(), ids=NOT_REGULAR)
def test_a_fifo_is_refused_instead_of_waiting_for_a_writer(
    run: Run, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # `serve` runs in this process, whose log must stay as it is.
    monkeypatch.setattr(log, "configure", lambda *_options: None)
    fifo, inventory = tmp_path / "fifo", tmp_path / "inventory.yaml"
    os.mkfifo(fifo)
    nodes = [{"name": "a", "url": "http://127.0.0.1:1", "token_file": str(fifo)}]
    inventory.write_text(json.dumps({"nodes": nodes}), "utf-8")
    paths = {"FIFO": str(fifo), "INVENTORY": str(inventory), "STATE": str(tmp_path / "state")}
    code, text = run(*(paths.get(word, word) for word in words))
    assert (code in (0, 1, 64), "is a FIFO" in text) == (True, True)


def test_a_token_may_come_from_a_program(shared: Daemon) -> None:
    command = f"{sys.executable} -m reconciler ls --url {shared.url} --token-file <(echo secret)"
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, env=environment())


def test_an_error_of_a_template_cannot_control_the_terminal(run: Run, shared: Daemon) -> None:
    template = copied(shared, "hostile/bell") / "chat_template.jinja"
    template.write_text("{{ raise_exception('\x07no') }}", "utf-8")
    code, text = run("run", "hostile/bell", "hello")
    assert (code, "TemplateError: \\x07no" in text, "\x07" in text) == (1, True, False)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_an_address_with_an_invalid_host_is_refused(run: Run, host: str) -> None:
    code, text = run("--url", f"http://{host}", "ls")
    assert (code, "is not a daemon's address" in text) == (64, True)


@pytest.mark.parametrize("words", [("rm", "--yes"), ("get",), ("show",), ("history",), ("load",)])
def test_a_name_that_is_not_utf_8_is_refused(run: Run, words: tuple[str, ...]) -> None:
    code, text = run(*words, "\udcff")
    assert (code in (1, 4, 64), "Error: " in text) == (True, True)


def test_piped_input_that_is_not_utf_8_is_refused(shared: Daemon) -> None:
    environ = {"RECONCILER_URL": shared.url}
    result = CliRunner().invoke(main, ("run", QUESTIONS), input=b"a\xff", env=environ)
    expected = "Error: the piped input is not UTF-8 text: byte 1 is invalid\n"
    assert (result.exit_code, result.output) == (1, expected)

"""`reconciler serve`: its ready line, options, shutdown, and refusals to start."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support import Daemon, Home, environment


def refuse(*arguments: str, **environ: str) -> str:
    """Run `serve` with options that it must refuse; return its one line of output."""
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**environ),
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_cleanly_ends_the_daemon_its_workers_and_its_streams(
    home: Home, number: int
) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": "tiny/llama"})
        workers = daemon.workers()
        (socket_path,) = {w.cmdline()[-1] for w in workers[:1]}
        assert len(os.fsencode(socket_path)) < 104
        assert Path(socket_path).parent.stat().st_mode & 0o777 == 0o700
        with urllib.request.urlopen(f"{daemon.url}/api/v1/events", timeout=60) as events:
            assert events.readline()
            assert daemon.stop(number) == 0
        assert not any(w.is_running() for w in workers)
        assert not Path(socket_path).parent.exists()
        assert "Traceback" not in daemon.log()


def test_the_ready_line_names_the_address(shared: Daemon) -> None:
    assert re.fullmatch(r"reconciler is listening on http://127\.0\.0\.1:\d+\n", shared.ready_line)
    assert shared.get("/health")["status"] == "ok"


def test_a_port_in_use_is_refused_in_one_line(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refuse(*home.arguments(), "--port", port)
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_an_unwritable_state_directory_is_refused_in_one_line(home: Home) -> None:
    (home.root / "file").touch()
    arguments = [*home.arguments(), "--port", "0", "--state", str(home.root / "file" / "state")]
    assert "state directory" in refuse(*arguments)


def test_a_second_daemon_on_the_same_state_directory_is_refused_in_one_line(shared: Daemon) -> None:
    line = refuse(*shared.home.arguments(), "--port", "0")
    assert str(shared.process.pid) in line
    assert str(shared.home.state) in line


def test_memory_is_not_wired_by_default(shared: Daemon) -> None:
    shared.until(lambda: shared.get("/api/v1/node")["wired"] is not None)
    expected = {"policy": "off", "limit_bytes": 0, "problem": None}
    assert shared.get("/api/v1/node")["wired"] == expected


def test_an_option_with_an_invalid_value_is_refused_with_an_explanation(home: Home) -> None:
    for option, value, words in (
        ("--wired-limit", "24", "is not a size; use a number and a unit"),
        ("--probe-interval", "0", "is too short; the minimum is 0.1s"),
    ):
        command = [sys.executable, "-m", "reconciler", "serve", *home.arguments(), option, value]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment(), check=False
        )
        assert done.returncode == 64
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_public_address_requires_a_token(home: Home) -> None:
    arguments = [*home.arguments(), "--port", "0", "--host", "0.0.0.0"]
    assert "--token-file" in refuse(*arguments)


def test_all_origins_are_allowed_only_with_a_token(home: Home) -> None:
    arguments = [*home.arguments(), "--port", "0", "--allow-origin", "*"]
    assert "--token-file" in refuse(*arguments)


def test_requests_without_the_required_token_are_refused(home: Home) -> None:
    (home.root / "token").write_text("secret\n", "utf-8")
    with Daemon(home, "--token-file", str(home.root / "token")) as daemon:
        status, answer = daemon.request("GET", "/health")
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        headers = {"Authorization": "Bearer secret"}
        assert daemon.request("GET", "/health", headers=headers)[0] == 200
    assert "secret" not in daemon.log()


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_a_foreign_host_or_origin_is_refused(shared: Daemon, header: str) -> None:
    headers = {header: "evil.example" if header == "Host" else "http://evil.example"}
    status, answer = shared.request("GET", "/health", headers=headers)
    assert (status, answer["error"]["type"]) == (403, "invalid_request")


def test_every_option_is_also_an_environment_variable(home: Home) -> None:
    home.write("a.yaml", name="assistant", model="tiny/llama")
    variables = {
        "RECONCILER_MANIFESTS": str(home.manifests),
        "RECONCILER_MODELS": f"/nowhere{os.pathsep}{home.models}",
        "RECONCILER_HUB_CACHE": str(home.hub_cache),
        "RECONCILER_LM_STUDIO": str(home.lm_studio),
        "RECONCILER_STATE": str(home.state),
        "RECONCILER_HOST": "localhost",
        "RECONCILER_PORT": "0",
        "RECONCILER_LOG_LEVEL": "warning",
        "RECONCILER_ALLOW_ORIGIN": "https://chat.example http://localhost:3000",
        "RECONCILER_ALLOW_HOST": "host.docker.internal *.local",
    }
    with Daemon(home, environ=variables) as daemon:
        daemon.ready("assistant")
        allowed = {"Origin": "http://localhost:3000", "Host": "mac.local"}
        assert daemon.request("GET", "/health", headers=allowed)[0] == 200
        assert daemon.request("GET", "/health", headers={"Origin": "null"})[0] == 403
        assert "record changed" not in daemon.log()
    assert home.state.joinpath("reconciler.db").is_file()


def test_the_daemon_does_not_import_mlx() -> None:
    code = (
        "import sys, reconciler.cli.bootstrap, reconciler.cli.demo;"
        "print([m for m in ('mlx', 'mlx_lm', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_exits_with_0_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "demo"],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "The capital of Japan is Tokyo.",
        "assistant: 8 of 8 answers are right",
        '"joined": true',
        '"loaded_by": "Reconfigure"',
        "the context length of this instance is 16",
        "there is no record 'assistant'",
    ):
        assert words in done.stdout
    (home,) = set(re.findall(r"/\S*reconciler-demo-[^/\s]+", done.stdout))
    assert not Path(home).exists()


def test_a_log_file_replaces_stderr_and_reports_memory_that_is_not_wired(
    home: Home,
) -> None:
    log = home.root / "logs" / "daemon.log"
    options = ("--log-file", str(log), "--log-format", "json", "--wired-limit", "recommended")
    with Daemon(home, *options) as daemon:
        daemon.load({"model": "tiny/llama"})
        if sys.platform != "darwin":  # on macOS it can be wired
            wired = daemon.get("/api/v1/node")["wired"]
            assert (wired["policy"], wired["limit_bytes"]) == ("recommended", 0)
            assert "no Metal" in wired["problem"]
        daemon.load({"model": "tiny/llama", "context_length": 9})
        daemon.stop()
    assert daemon.log() == ""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    events = [line["event"] for line in lines]
    assert "record changed" in events
    if sys.platform != "darwin":
        (unwired,) = [line for line in lines if line["event"] == "memory is not wired"]
        assert "no Metal" in unwired["reason"]
    # All lines of one action have its number.
    actions = [(line["event"], line["reconcile"]) for line in lines if "reconcile" in line]
    assert actions == [
        (event, number) for number in (1, 2) for event in ("action started", "action ended")
    ]
    below_a_file = str(log / "daemon.log")
    assert "cannot write log file" in refuse(*home.arguments(), "--log-file", below_a_file)

"""`ps`, `top` and `bench`: resource use of instances."""

import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import main
from reconciler.cli.bench import Timed, summary
from reconciler.cli.ps import until
from reconciler.cli.top import ENTER, LEAVE, Sample, picture
from tests.support import Daemon, environment

LLAMA = "tiny/llama"


def invoke(daemon: Daemon, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"RECONCILER_URL": daemon.url})


@pytest.fixture(scope="module")
def used(shared: Daemon) -> Daemon:
    """Two instances of one checkpoint, one with an idle timeout, and one that failed."""
    body = {"model": LLAMA, "context_length": 64}
    shared.load(body | {"instance_id": "first"})
    shared.load(body | {"instance_id": "second", "idle_ttl_seconds": 3000})
    shared.home.write("missing.yaml", name="missing", model="no/such")
    shared.until(lambda: shared.request("GET", "/api/v1/records/missing")[0] == 200)
    shared.eventually("missing", lambda r: "ModelNotFound" in str(r["status"]["conditions"]))
    return shared


def test_instances_of_a_checkpoint_share_its_weights_and_have_separate_reservations(
    used: Daemon,
) -> None:
    found = {one["name"]: one for one in used.get("/api/v1/instances")["instances"]}
    first, second = found["first"], found["second"]
    assert first["checkpoint"] == second["checkpoint"]
    assert first["shared_bytes"] == second["shared_bytes"] > 0
    assert first["reserved_bytes"] > 0
    assert first["requests"] == first["kv_bytes"] == 0
    assert first["seconds_until_idle"] is None
    assert 2000 < second["seconds_until_idle"] <= 3000


def test_a_request_is_counted_with_its_kv_cache_and_tokens(used: Daemon) -> None:
    def long() -> Any:
        found = used.get("/api/v1/instances")["instances"]
        return next(one for one in found if one["name"] == "long")

    used.load({"model": LLAMA, "instance_id": "long"})
    before = long()
    body = {"model": "long", "prompt": "a", "ignore_eos": True, "stream": True}
    with used.stream("/v1/completions", body) as answer:
        answer.readline()
        running = long()
    used.until(lambda: long()["requests"] == 0)
    after = long()
    assert (before["requests"], before["kv_bytes"]) == (0, 0)
    assert running["requests"] == 1
    assert running["kv_bytes"] > 0
    assert after["completion_tokens"] > before["completion_tokens"]
    assert after["prompt_tokens"] > before["prompt_tokens"]
    used.until(lambda: long()["kv_bytes"] == 0)
    used.unload("long")


def test_ps_shows_loaded_and_failed_instances(used: Daemon) -> None:
    result = invoke(used, "ps")
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split() for line in result.output.splitlines()}
    assert lines["NAME"] == ["NAME", "STATE", "OWN", "SHARED", "KV", "REQUESTS", "UNLOAD", "LOADED"]
    assert lines["first"][1] == "Loaded"
    assert lines["second"][-3:-1] == ["in", "50m"]
    assert lines["missing"][1] == "ModelNotFound"


def test_ps_omits_suspended_records_without_all(used: Daemon) -> None:
    body = {"spec": {"model": LLAMA, "suspend": True}}
    assert used.request("PUT", "/api/v1/records/resting", body)[0] == 200
    assert "resting" not in invoke(used, "ps", "-o", "name").output.split()
    assert "resting" in invoke(used, "ps", "-a", "-o", "name").output.split()


def test_top_prints_once_to_a_pipe(used: Daemon) -> None:
    for options in ((), ("--once",)):
        result = invoke(used, "top", *options)
        assert result.exit_code == 0
        assert f"{len(used.loaded())} loaded, 0 requests" in result.output
        assert "ModelNotFound" in result.output
        assert "\x1b" not in result.output


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_redraws_until_a_key_ends_it_and_restores_the_terminal(
    used: Daemon, key: bytes
) -> None:
    ours, theirs = pty.openpty()
    # Opened by a session leader without a terminal, it becomes its controlling terminal.
    on_terminal = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1'
    top = subprocess.Popen(
        [
            *("sh", "-c", on_terminal, "sh", os.ttyname(theirs)),
            *(sys.executable, "-m", "reconciler", "top"),
            *("--url", used.url, "--interval", "0.2s"),
        ],
        env=environment(TERM="xterm"),
        start_new_session=True,
    )
    shown = b""
    try:
        while shown.count(b" loaded, ") < 3:
            shown += os.read(ours, 65536)
        os.write(ours, key)
        while not shown.endswith(LEAVE.encode()):
            shown += os.read(ours, 65536)
        assert top.wait(30) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)
        os.close(theirs)
    assert shown.startswith(ENTER.encode())
    assert b"Traceback" not in shown


def row(name: str, **instance: Any) -> Any:
    ready = {"type": "Ready", "status": "True", "reason": "Loaded", "message": ""}
    usual = {
        "name": name,
        "reserved_bytes": 10,
        "shared_bytes": 2_000_000,
        "kv_bytes": None,
        "requests": 1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "seconds_until_idle": None,
    }
    return {"name": name, "status": {"conditions": [ready]}, "instance": usual | instance}


def sample(at: float, *rows: Any) -> Sample:
    memory = {"used_bytes": 2_000_000, "budget_bytes": 8_000_000_000}
    return Sample(at, {"version": "1.2.3", "memory": memory}, rows)


def test_top_shows_totals_and_rates_since_the_previous_sample() -> None:
    before = sample(10.0, row("a", prompt_tokens=100, completion_tokens=5))
    now = sample(12.0, row("a", prompt_tokens=300, completion_tokens=25), row("new"))
    head, _, headings, a, new = picture(now, before)
    assert head == "reconciler 1.2.3: 2 loaded, 2 requests, 2.0 MB of 8.0 GB"
    assert headings.split()[-3:] == ["IN/S", "OUT/S", "UNLOAD"]
    assert a.split() == ["a", "Loaded", "10", "B", "2.0", "MB", "-", "1", "100", "10.0", "-"]
    assert new.split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, None),
        (0.4, "in 0s"),
        (59, "in 59s"),
        (540, "in 9m"),
        (7200, "in 2h"),
        (200_000, "in 2d"),
    ],
)
def test_the_time_until_an_instance_is_unloaded(seconds: float | None, shown: str | None) -> None:
    assert until(row("a", seconds_until_idle=seconds)) == shown


def test_bench_measures_one_request_and_several(used: Daemon) -> None:
    result = invoke(used, "bench", "first", "-n", "1", "-n", "3", "--tokens", "8", "--words", "4")
    assert result.exit_code == 0, result.output
    headings, one, three = result.output.splitlines()
    assert headings.split()[:3] == ["REQUESTS", "FIRST", "TOKEN"]
    assert (one.split()[0], three.split()[0]) == ("1", "3")
    assert one.split()[-2:] == three.split()[-2:] == ["8", "tokens"]


def test_bench_ends_at_its_deadline(used: Daemon) -> None:
    used.load({"model": LLAMA, "instance_id": "roomy"})
    result = invoke(used, "bench", "roomy", "-n", "1", "--tokens", "4096", "--timeout", "1s")
    assert result.exit_code == 5
    assert "not done after 1 s" in result.output
    used.unload("roomy")


def test_bench_of_a_missing_instance_has_exit_code_4(used: Daemon) -> None:
    assert invoke(used, "bench", "nothing").exit_code == 4


def test_a_summary_has_medians_and_the_total_rate() -> None:
    answers = [
        Timed(0.0, 1.0, 3.0, 10, 21),
        Timed(0.0, 2.0, 4.0, 12, 21),
        Timed(0.0, 3.0, 4.0, 14, 21),
    ]
    assert summary(answers) == {
        "requests": 3,
        "first_token_seconds": 2.0,
        "tokens_per_second_each": 10.0,
        "tokens_per_second_together": 63 / 4,
        "prompt_tokens": 12,
        "completion_tokens": 21,
    }
